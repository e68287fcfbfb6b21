"""The front door: fast help, one-line errors, exit codes."""

import gc
import os
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

import slipstream
from slipstream.cli.main import (
    COLLECT_FIRST,
    COLLECT_LATER,
    VERBS,
    help_text,
    put_off_collecting,
)
from slipstream.errors import LimitsNotMetError, SourceError

ROOT = Path(__file__).resolve().parents[2]


def cpu_seconds(spawn, *words):
    """Processor time of a process, which other work on this machine does not disturb."""
    process = spawn(*words, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return used.ru_utime + used.ru_stime


def modules_after(spawn, code):
    process = spawn(
        "-c", f"import sys\n{code}\nprint(*sys.modules)", stdout=subprocess.PIPE, text=True
    )
    return set(process.communicate()[0].split())


def test_help_takes_less_than_a_third_of_a_second(spawn):
    words = ("-m", "slipstream.cli.main", "--help")
    assert min(cpu_seconds(spawn, *words) for _ in range(3)) < 0.3


def test_importing_the_package_is_light(spawn):
    bare = min(cpu_seconds(spawn, "-c", "pass") for _ in range(3))
    with_it = min(cpu_seconds(spawn, "-c", "import slipstream") for _ in range(3))
    assert with_it - bare < 0.05
    assert not modules_after(spawn, "import slipstream") & {"numpy", "pydantic", "typing"}


def test_help_imports_neither_numpy_nor_typer(spawn):
    loaded = modules_after(spawn, "from slipstream.cli.main import help_text; help_text()")
    assert not loaded & {"numpy", "typer", "rich", "pydantic", "tokenizers", "starlette"}


def test_help_shows_every_verb_and_an_example(run):
    for words in ((), ("--help",), ("-h",), ("help",)):
        shown = run(*words)
        assert shown.code == 0 and shown.out == help_text() + "\n"
    for name, verb in VERBS.items():
        assert name in shown.out and verb.summary in shown.out
    assert "example: slipstream generate" in shown.out


@pytest.mark.parametrize("name", VERBS)
def test_the_help_of_every_verb_has_an_example(run, name):
    try:
        import_module(VERBS[name].module)
    except ModuleNotFoundError as error:
        if error.name == VERBS[name].module:
            pytest.skip(f"{name} is not there yet")
        raise
    shown = run(name, "--help")
    assert shown.code == 0 and f"slipstream {name}" in shown.out and "Example" in shown.out


def test_the_version_is_the_package_s(run):
    assert run("--version").out == f"slipstream {slipstream.__version__}\n"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert slipstream.__version__ == project["version"]


def test_an_unknown_verb_is_a_usage_error_with_a_hint(run):
    shown = run("serv")
    assert (
        shown.code == 2 and shown.err == "error: there is no verb 'serv'; did you mean 'serve'?\n"
    )
    assert "see slipstream --help" in run("zzz").err


def test_a_wrong_option_is_a_usage_error(run):
    shown = run("generate", "--nonsense")
    assert shown.code == 2 and "nonsense" in shown.err


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (SourceError("no such model;\n  try another"), 1, "error: no such model; try another\n"),
        (LimitsNotMetError("nothing fits"), 3, "error: nothing fits\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_errors_made_for_users_are_one_line_and_a_code(run, monkeypatch, error, code, line):
    def fails(source, options=None):
        raise error

    from slipstream.engine.engine import Engine

    monkeypatch.setattr(Engine, "open", fails)
    monkeypatch.setattr("slipstream.cli.answering.resolve", Path)
    shown = run("generate", "m", "-p", "Hi")
    assert (shown.code, shown.out, shown.err) == (code, "", line)


def test_a_reader_that_leaves_early_is_no_error_of_ours(spawn):
    code = "from slipstream.cli.main import guarded; guarded(lambda: [print('x' * 1000) for _ in range(10**4)])()"
    process = spawn("-c", code, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.read(10)
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait() == 1


def test_every_public_name_is_there():
    for name in slipstream.__all__:
        assert getattr(slipstream, name) is not None
    assert set(slipstream.__all__) == set(dir(slipstream))
    with pytest.raises(AttributeError, match="nothing"):
        _ = slipstream.nothing
    assert sys.modules["slipstream"].Engine is slipstream.Engine


def test_garbage_is_collected_late_at_first_and_then_often() -> None:
    before = gc.get_threshold()
    try:
        put_off_collecting()
        assert gc.get_threshold()[0] == COLLECT_FIRST
        gc.collect()
        assert gc.get_threshold() == COLLECT_LATER
        frozen = gc.get_freeze_count()
        assert frozen > 0
        kept: list[list[int]] = [[] for _ in range(1000)]
        gc.collect()
        assert gc.get_freeze_count() < frozen + len(kept)  # settled once; frozen ones may die
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)

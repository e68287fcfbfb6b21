"""What is loaded: its content's hash, whether there is room, and options of the command line."""

import os
from pathlib import Path

import pytest
from live_server import run_async

from slipstream.cli.serve_models import Spec, parse_spec, served_name, specs_of
from slipstream.engine.options import EngineOptions
from slipstream.errors import MachineError, RequestError
from slipstream.models.load import load
from slipstream.serve.loader import Loader, NoMemory, Opened, check_memory
from slipstream.serve.loader_content import content_of
from slipstream.serve.loader_memory import available_bytes


def test_content_is_of_what_the_files_hold(tmp_path):
    one, two = tmp_path / "one.gguf", tmp_path / "two.gguf"
    one.write_bytes(b"weights" * 100)
    two.write_bytes(b"weights" * 100)
    assert content_of(one) == content_of(two)
    two.write_bytes(b"wEights" * 100)
    assert content_of(one) != content_of(two)


def test_a_large_file_that_is_written_again_is_another(tmp_path):
    path = tmp_path / "one.gguf"
    path.write_bytes(b"w" * 2**21)
    before = content_of(path)
    assert content_of(path) == before
    os.utime(path, ns=(1, 1))
    assert content_of(path) != before


def test_an_artifact_is_known_by_its_manifest(tmp_path):
    folder = tmp_path / "artifact"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"w" * 2**21)
    manifest = '{"schema": 1, "files": {"model.safetensors": {"size": 2097152, "sha256": "%s"}}}'
    (folder / "slipstream.json").write_text(manifest % "aa")
    before = content_of(folder)
    os.utime(folder / "model.safetensors", ns=(1, 1))
    assert content_of(folder) == before  # a copy is the same artifact
    (folder / "slipstream.json").write_text(manifest % "bb")
    assert content_of(folder) != before


def test_all_shards_count(tmp_path):
    for number in (1, 2):
        (tmp_path / f"m-0000{number}-of-00002.gguf").write_bytes(b"%d" % number)
    first = tmp_path / "m-00001-of-00002.gguf"
    before = content_of(first)
    (tmp_path / "m-00002-of-00002.gguf").write_bytes(b"3")
    assert content_of(first) != before


def test_what_does_not_fit_is_refused_before_it_is_loaded(smollm2_path):
    model = load(smollm2_path)
    options = EngineOptions(max_batch=1, context=256)
    check_memory(model, Path(smollm2_path), options, None)
    check_memory(model, Path(smollm2_path), options, 2**40)
    with pytest.raises(NoMemory, match=r"needs about \d+ MB .* and 100 MB are free") as caught:
        check_memory(model, Path(smollm2_path), options, 100_000_000)
    assert caught.value.http_status == 507


def test_free_memory_is_the_machines_within_the_cgroup(tmp_path):
    def write(path, text):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)

    assert available_bytes(tmp_path) is None
    write("proc/meminfo", "MemTotal: 16000 kB\nMemAvailable: 8000 kB\n")
    assert available_bytes(tmp_path) == 8000 * 1024
    write("sys/fs/cgroup/memory.max", "5000000")
    write("sys/fs/cgroup/memory.current", "4000000")
    write("sys/fs/cgroup/memory.stat", "anon 1\ninactive_file 500000\n")
    assert available_bytes(tmp_path) == 1_500_000
    write("sys/fs/cgroup/memory.max", "max")
    assert available_bytes(tmp_path) == 8000 * 1024


@run_async
async def test_loading_is_one_after_the_other_on_its_own_thread():
    import threading

    seen = []

    def open_one(source, options):
        seen.append((source, threading.current_thread().name))
        if source == "broken":
            raise MachineError("no")
        return Opened(None, source)

    loader = Loader(open_one=open_one)
    assert (await loader.open("a")).content == "a"
    with pytest.raises(MachineError):
        await loader.open("broken")
    assert [source for source, _ in seen] == ["a", "broken"]
    assert all(name.startswith("loader") for _, name in seen)
    loader.close()


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("chat=./folder", Spec("chat", "./folder", "1")),
        ("chat=./folder@2", Spec("chat", "./folder", "2")),
        ("chat=smollm2:135m@x", Spec("chat", "smollm2:135m", "x")),
        ("chat=/a@b/model.gguf", Spec("chat", "/a@b/model.gguf", "1")),
        ("chat=/a@b/model.gguf@7", Spec("chat", "/a@b/model.gguf", "7")),
        ("chat=hf:org/name@main", Spec("chat", "hf:org/name@main", "main")),
    ],
)
def test_models_are_named_on_the_command_line(text, spec):
    assert parse_spec(text) == spec


@pytest.mark.parametrize("text", ["", "chat", "=x", "chat="])
def test_what_names_no_model_is_refused(text):
    with pytest.raises(RequestError, match="NAME=MODEL"):
        parse_spec(text)


def test_the_first_model_has_a_name_of_its_own():
    assert specs_of("a.gguf", "chat", None) == [Spec("chat", "a.gguf")]
    assert specs_of("smollm2:135m", None, ["b=c"])[0].name == served_name("smollm2:135m")
    with pytest.raises(RequestError, match="say what to serve"):
        specs_of(None, None, None)

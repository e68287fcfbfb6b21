"""Starting is light: importing touches no torch, and `--help` answers at once."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "scipy", "fastapi", "huggingface_hub", "matplotlib", "pydantic")


def modules_after(statement: str) -> set[str]:
    code = f"{statement}\nimport sys; print(*sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_the_package_imports_nothing_heavy() -> None:
    assert modules_after("import slipstream").isdisjoint((*HEAVY, "numpy"))


def test_the_command_line_starts_without_numpy() -> None:
    assert modules_after("import slipstream.cli.main").isdisjoint((*HEAVY, "numpy"))


def test_serving_never_imports_torch() -> None:
    statement = "import slipstream.serve.app, slipstream.engine.engine, slipstream.backends.native"
    assert modules_after(statement).isdisjoint(("torch", "transformers", "matplotlib"))


def test_optimizing_never_imports_torch() -> None:
    statement = "import slipstream.optimize.search, slipstream.optimize.report"
    assert modules_after(statement).isdisjoint(("torch", "transformers", "matplotlib"))


@pytest.mark.parametrize("name", ["Engine", "SamplingParams", "load"])
def test_public_names_load_on_demand(name: str) -> None:
    code = f"import slipstream; assert {name!r} in slipstream.__all__; slipstream.{name}"
    subprocess.run([sys.executable, "-c", code], check=True)

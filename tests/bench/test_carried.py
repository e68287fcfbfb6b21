"""Recipes of the table against GGUF are carried out once, and again when they change."""

import importlib
from pathlib import Path
from types import SimpleNamespace

import pytest

from slipstream.compress.chain import read_chain

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks" / "compression"
RECIPE = """
[[pass]]
method = "mixed"
size_mb = 1
menu = ["4 g32", "8 row"]
sweeps = {sweeps}
"""


@pytest.fixture
def carried(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("carried")


def test_an_equal_recipe_is_not_carried_out_twice(
    carried, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    runs = []

    def compressed(order, original, chain, run: Path) -> None:
        run.mkdir()
        runs.append(chain)

    monkeypatch.setattr(carried, "compressed", compressed)
    monkeypatch.setattr(carried, "write", lambda *given: None)
    order = SimpleNamespace(work=tmp_path, calibration=1, model=Path("m.gguf"))
    recipe = tmp_path / "001.toml"
    first, second = (read_chain(RECIPE.format(sweeps=sweeps)) for sweeps in (0, 1))
    folder, facts = carried.made(order, None, recipe, first)
    assert carried.made(order, None, recipe, first) == (folder, facts)
    assert len(runs) == 1
    carried.made(order, None, recipe, second)
    assert len(runs) == 2

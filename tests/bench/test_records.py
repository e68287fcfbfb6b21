"""Raw results that are published: they name files, and no folder of the machine."""

import json
from pathlib import Path

import pytest

from slipstream.bench.records import without_paths, write_record

ROOT = Path("/srv/code")
HOME = Path("/home/someone")
RESULTS = sorted(Path(__file__).parents[2].glob("benchmarks/**/results/**/*.json"))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("/srv/code/build/a.gguf", "./build/a.gguf"),
        ("/srv/code", "."),
        ("/srv/codec/a", "…/a"),
        ("/home/someone/.cache/models/b.gguf", "~/.cache/models/b.gguf"),
        ("the file /tmp/x/y.log is damaged", "the file …/y.log is damaged"),
        ("smollm2:135m", "smollm2:135m"),
        ("http://127.0.0.1:80/v1/models", "http://127.0.0.1:80/v1/models"),
        ("12.3 tokens/s, ./build/a, ~/b", "12.3 tokens/s, ./build/a, ~/b"),
        ("2026-11-21T05:16:46Z", "2026-11-21T05:16:46Z"),
        ("/dev/null", "/dev/null"),
    ],
)
def test_a_path_is_told_without_the_machines_folders(text, told):
    assert without_paths(text, ROOT, HOME) == told
    assert without_paths({text: [text, 1]}, ROOT, HOME) == {told: [told, 1]}
    assert without_paths(told, ROOT, HOME) == told


def test_what_is_written_can_be_read_back(tmp_path):
    write_record({"path": str(tmp_path / "a"), "rate": 1.5}, tmp_path / "b/c.json", tmp_path)
    assert json.loads((tmp_path / "b/c.json").read_text()) == {"path": "./a", "rate": 1.5}


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.name)
def test_published_results_hold_no_path_of_a_machine(path):
    result = json.loads(path.read_text())
    assert without_paths(result, ROOT, HOME) == result

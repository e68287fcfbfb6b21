"""`slipstream pull` says where a model lies, how large it is, and its hash."""

import hashlib
import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from slipstream.cli.pull import command
from slipstream.errors import SourceError


def run(*arguments: str) -> str:
    app = typer.Typer()
    app.command()(command)
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=True)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.stdout


def test_a_file_is_printed_with_size_and_hash(tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    file.write_bytes(b"GGUF")
    printed = run(str(file))
    assert str(file) in printed and "4 bytes" in printed
    assert hashlib.sha256(b"GGUF").hexdigest() in printed


def test_json_lists_every_file_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"1234")
    found = json.loads(run(str(tmp_path), "--json"))
    assert found["path"] == str(tmp_path) and found["size"] == 6
    assert [Path(row["path"]).name for row in found["files"]] == [
        "config.json",
        "model.safetensors",
    ]


def test_an_unknown_name_is_a_source_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="Known names"):
        run(str(tmp_path / "absent"))

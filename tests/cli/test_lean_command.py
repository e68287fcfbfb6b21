"""Values that plainly fit are taken as typer would take them; all others go to typer."""

from pathlib import Path
from typing import Annotated, Literal

import pytest
import typer
from typer.testing import CliRunner

from slipstream.cli.lean_command import DOUBT, LeanCommand, fitted


def command(
    name: str,
    count: Annotated[int, typer.Option(min=1, max=9)] = 3,
    share: Annotated[float, typer.Option(min=0)] = 0.5,
    kind: Annotated[Literal["a", "b"], typer.Option()] = "a",
    seed: Annotated[int | None, typer.Option()] = None,
    words: Annotated[list[str] | None, typer.Option()] = None,
    at: Annotated[Path | None, typer.Option()] = None,
    fast: Annotated[bool, typer.Option()] = True,
) -> None:
    print(repr((name, count, share, kind, seed, words, at, fast)))


def said(words, **more):
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command("it", **more)(command)
    outcome = CliRunner().invoke(app, words)
    return outcome.exit_code, outcome.output


LINES = [
    ["x"],
    ["x", "--count", "9", "--share", "0.25", "--kind", "b", "--seed", "-3", "--no-fast"],
    ["x", "--share", "2", "--words", "u", "--words", "v", "--at", "/tmp"],
    ["7", "--count", " 4", "--seed", "1_0"],
    ["x", "--count", "10"],
    ["x", "--count", "two"],
    ["x", "--share", "-1"],
    ["x", "--share", "nan"],
    ["x", "--kind", "c"],
    [],
    ["x", "--seed", "99999999999999999999"],
    ["x", "--nothing"],
    ["--help"],
]


@pytest.mark.parametrize("words", LINES, ids=" ".join)
def test_every_line_is_read_as_typer_reads_it(words):
    assert said(words, cls=LeanCommand) == said(words)


def test_only_what_plainly_fits_is_taken():
    assert fitted("12", int, 0, None) == 12 and fitted(2, float, None, None) == 2.0
    for value, annotation in (("1.5", int), ("x", float), ("1", bool), (True, int), ("x", Path)):
        assert fitted(value, annotation, None, None) is DOUBT
    assert fitted("5", int, 6, None) is DOUBT and fitted("5", int, None, 4) is DOUBT

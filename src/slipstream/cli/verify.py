"""`slipstream verify`: is an artifact what was written, and does it still answer as it did?"""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from slipstream.checkpoint.artifact import MANIFEST, check_files, read_manifest
from slipstream.checkpoint.prompts import read_prompts
from slipstream.checkpoint.sources import resolve as find
from slipstream.engine.engine import Engine
from slipstream.engine.options import EngineOptions
from slipstream.engine.proof import Finding, compare, numerics_of
from slipstream.errors import ArtifactError, SlipstreamError

Row = tuple[str, bool, str]  # what was checked, whether it is right, in words


def command(
    model: Annotated[str, typer.Argument(help="The folder of an artifact.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Check an artifact: its manifest, the hash of every file, and its stored prompts.

    Example: slipstream verify out/int4

    The same kernels must give the same bits on every machine; other ones must stay within the
    tolerance that the artifact states. Exit code 0: all is as it was written; 1: something is not.
    """
    folder = Path(find(model))
    if not folder.is_dir():
        raise ArtifactError(f"{model} is no folder of an artifact: there is nothing to verify")
    rows = file_rows(folder)
    files_right = all(right for _, right, _ in rows)
    rows += prompt_rows(folder) if files_right else [_not_run()]
    right = all(right for _, right, _ in rows)
    if as_json:
        print(json.dumps({"model": model, "right": right, "checks": [_plain(r) for r in rows]}))
    else:
        show(model, rows)
    if not right:
        raise ArtifactError(f"{model} is not what was written: copy it again, or make it anew")


def file_rows(folder: Path) -> list[Row]:
    """The manifest, then every file that it lists."""
    found = check_files(folder, read_manifest(folder))
    rows = [(MANIFEST, True, "sealed")]
    for name, error in found.items():
        rows.append((name, error is None, "as written" if error is None else str(error)))
    return rows


def prompt_rows(folder: Path) -> list[Row]:
    """Every stored prompt, run as the artifact is served."""
    stored = read_prompts(folder)
    if stored is None:
        return [("prompts", True, "none stored: it was written before there were any")]
    try:
        options = EngineOptions(max_batch=1, verify=False, keep_packed=False)
        engine = Engine.open(folder, options)
        numerics = numerics_of(engine.settings)
        findings = compare(engine.program, stored, numerics)
    except SlipstreamError as error:
        return [("prompts", False, str(error))]
    where = f"{stored.numerics.isa} → {numerics.isa}"
    return [(f"prompt {i}", one.passed, _words(one, where)) for i, one in enumerate(findings, 1)]


def show(model: str, rows: list[Row]) -> None:
    """A table."""
    table = Table(title=model, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("checked", "", "finding"):
        table.add_column(heading)
    for name, right, words in rows:
        table.add_row(name, "right" if right else "WRONG", words)
    Console().print(table)


def _words(finding: Finding, where: str) -> str:
    if finding.same_bits:
        return f"every bit as written ({where})"
    apart = f"a top logit is off by {finding.difference:.3g}"
    if finding.allowed == 0:
        return f"{apart}, where every bit has to agree ({where})"
    return f"{apart}; other kernels or options may be off by {finding.allowed:.3g} ({where})"


def _not_run() -> Row:
    return ("prompts", False, "not run, since the files are not those that were written")


def _plain(row: Row) -> dict[str, Any]:
    return dict(zip(("checked", "right", "finding"), row, strict=True))

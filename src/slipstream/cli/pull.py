"""``slipstream pull``: fetch a model into the cache, verified, and say where it is."""

import json as json_text
from typing import Annotated

import typer

from slipstream.checkpoint.sources import resolve
from slipstream.checkpoint.sources_verify import sha256_of, stamped_sha256


def command(
    name: Annotated[str, typer.Argument(help="smollm2:135m, hf:ORG/NAME[@REVISION], or a path")],
    json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
    refresh: Annotated[bool, typer.Option(help="ask the hub whether a branch has moved")] = False,
) -> None:
    """Fetch a model and print its path, size and SHA-256. A second call needs no network.

    Example: slipstream pull smollm2:135m
    """
    path = resolve(name, quiet=json, refresh=refresh)
    files = [path] if path.is_file() else sorted(item for item in path.rglob("*") if item.is_file())
    sizes = {file: file.stat().st_size for file in files}
    hashes = {file: stamped_sha256(file) or sha256_of(file) for file in files}
    total = sum(sizes.values())
    if json:
        rows = [{"path": str(f), "size": sizes[f], "sha256": hashes[f]} for f in files]
        typer.echo(json_text.dumps({"name": name, "path": str(path), "size": total, "files": rows}))
        return
    typer.echo(f"{path}\n{total:,} bytes")
    for file, sha256 in hashes.items():
        typer.echo(f"sha256 {sha256}" + (f"  {file.name}" if len(files) > 1 else ""))

"""The options of `slipstream serve` about what is served: models, adapters, the response cache.

`specs_of` reads them, `catalog_of` makes the catalog of the server. The HTTP stack is imported by
the time that the latter is called.
"""

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from slipstream.engine.engine import Engine
from slipstream.engine.options import EngineOptions
from slipstream.errors import RequestError
from slipstream.machine import admin_key

if TYPE_CHECKING:
    from slipstream.serve.admission import AdmissionLimits
    from slipstream.serve.catalog import Catalog

VERSION = "1"

First = Annotated[
    str | None, typer.Argument(metavar="MODEL", help="a name (see `pull`), a file or a folder")
]
More = Annotated[
    list[str] | None,
    typer.Option("--model", metavar="NAME=MODEL[@VERSION]", help="one more (repeatable)"),
]
Adapters = Annotated[
    list[str] | None,
    typer.Option(
        "--adapter", metavar="NAME[@BASE]=FOLDER", help="a LoRA adapter as a model (repeatable)"
    ),
]
ToolFormats = Annotated[
    list[str] | None,
    typer.Option(
        "--tool-format",
        metavar="[NAME=]FORMAT",
        help="hermes, llama3, mistral, mistral-args, qwen3-coder, glm, harmony or none, if its "
        "template misleads (repeatable)",
    ),
]
CacheAt = Annotated[
    str | None,
    typer.Option("--response-cache", help="a file, redis://…, or off (default: a file)"),
]
CacheMB = Annotated[int, typer.Option("--response-cache-mb", min=1, help="most MB of that file")]
CacheTTL = Annotated[
    float, typer.Option("--response-cache-ttl", min=0, help="seconds (0: as long as there is room)")
]
AdminKeyFile = Annotated[
    Path | None, typer.Option(help="file of the key that opens /admin; or SLIPSTREAM_ADMIN_KEY")
]


@dataclass(frozen=True)
class Spec:
    """One model to serve, as it was asked for."""

    name: str
    source: str
    version: str = VERSION


@dataclass(frozen=True)
class CacheChoice:
    """The options of the response cache, as given."""

    where: str | None
    limit_mb: int
    ttl_s: float


def specs_of(first: str | None, name: str | None, more: Sequence[str] | None) -> list[Spec]:
    """What to serve, in order. RequestError: nothing, or something that cannot be read."""
    specs = [] if first is None else [Spec(name or served_name(first), first)]
    specs += [parse_spec(text) for text in more or ()]
    if not specs:
        raise RequestError("say what to serve: slipstream serve MODEL, or --model NAME=MODEL")
    return specs


def parse_spec(text: str) -> Spec:
    """``chat=./folder@2``; of a hub's model the version is the revision: ``chat=hf:a/b@main``."""
    name, equals, rest = text.partition("=")
    if not equals or not name or not rest:
        raise RequestError(f"--model wants NAME=MODEL or NAME=MODEL@VERSION, not {text!r}")
    source, at, version = rest.rpartition("@")
    if not at or not source or "/" in version:
        return Spec(name, rest)
    return Spec(name, rest if rest.startswith("hf:") else source, version)


def served_name(model: str) -> str:
    """What clients call the model: the name it was asked for by, or the last part of its path."""
    path = Path(model)
    return (
        path.resolve().stem if path.is_file() else path.resolve().name if path.exists() else model
    )


def catalog_of(
    specs: Sequence[Spec],
    path: Path,
    opening: "Future[Engine]",
    *,
    options: EngineOptions,
    limits: "AdmissionLimits",
    cache: CacheChoice,
) -> "Catalog":
    """The catalog of all models; the first one lies at `path` and `opening` gives its engine, the
    others are loaded here.
    """
    catalog, loader, content = (
        import_module(f"slipstream.serve.{part}")
        for part in ("catalog", "loader", "loader_content")
    )
    kept = import_module("slipstream.serve.response_cache_open").open_cache(
        cache.where, limit_mb=cache.limit_mb, ttl_s=cache.ttl_s or None
    )

    def served(spec: Spec, engine: Engine, hashed: str) -> Any:
        return catalog.Served(
            spec.name, engine, limits, version=spec.version, content=hashed, source=spec.source
        )

    first, *others = specs
    ones = [served(first, opening.result(), content.content_of(path))]
    for spec in others:
        opened = loader.open_model(spec.source, options)
        ones.append(served(spec, opened.engine, opened.content))
    made: Catalog = catalog.Catalog(ones, loader=loader.Loader(options), cache=kept, limits=limits)
    return made


def add_adapters(catalog: "Catalog", adapters: Sequence[str] | None) -> None:
    """Loads the adapters before the engines run. RequestError: one that cannot be read."""
    for text in adapters or ():
        asked, equals, folder = text.partition("=")
        name, _, base = asked.partition("@")
        if not equals or not name or not folder:
            raise RequestError(f"--adapter wants NAME=FOLDER or NAME@BASE=FOLDER, not {text!r}")
        catalog.put_adapter(name, folder, base or next(iter(catalog)).name)


def set_tool_formats(catalog: "Catalog", formats: Sequence[str] | None) -> None:
    """How models call tools, where their templates do not say. UnsupportedError: unknown format."""
    dialect = import_module("slipstream.serve.dialect")
    for text in formats or ():
        name, _, tool_format = text.rpartition("=")
        for served in [catalog.choose(name)] if name else catalog:
            served.tool_format = tool_format
            served.dialect = dialect.dialect_of(served.engine.tokenizer, tool_format)


def admin_doors(file: Path | None) -> dict[str, Any]:
    """Who may manage the server: a keyword of `serve.server.Server`."""
    keys = import_module("slipstream.serve.admin_key")
    if file is not None:
        return {"admin_key": keys.AdminKey.read(file)}
    return {"admin_key": keys.AdminKey(admin_key()) if admin_key() else None}

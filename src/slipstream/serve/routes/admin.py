"""``/admin/models`` and ``/admin/adapters``: what is served, changed while it is.

Every route needs the admin key. Loading and unloading take a while: they are begun and answered
with 202, or, with ``"wait": true``, answered when they are done.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated

from pydantic import Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from slipstream.errors import FileFormatError, RequestError, SourceError
from slipstream.serve.admin_key import check_admin
from slipstream.serve.admission import read_json
from slipstream.serve.canary import Canary
from slipstream.serve.catalog import Catalog, Entry
from slipstream.serve.catalog_keeper import CatalogKeeper
from slipstream.serve.loader_memory import available_bytes
from slipstream.serve.openai import Strict
from slipstream.serve.replies import Json
from slipstream.serve.served import VERSION
from slipstream.serve.server import Server

Handler = Callable[[Request], Awaitable[Response]]


class Load(Strict):
    """``POST /admin/models/load``: `source` is a name, a file or a folder on the server."""

    name: str
    source: Annotated[str, Field(min_length=1)]
    version: str = VERSION
    default: bool = False
    wait: bool = False


class Unload(Strict):
    """``POST /admin/models/unload``: after `timeout` seconds, answers under way are cut short."""

    name: str
    version: str | None = None
    timeout: Annotated[float, Field(ge=0)] | None = None
    wait: bool = False


class Default(Strict):
    """``POST /admin/models/default``."""

    name: str
    version: str


class CanaryOf(Strict):
    """``POST /admin/models/canary``: `percent` 0 ends it."""

    name: str
    version: str
    percent: Annotated[float, Field(ge=0, le=100)]


class LoadAdapter(Strict):
    """``POST /admin/adapters/load``: a folder in PEFT's format, for the model `base`."""

    name: str
    source: Annotated[str, Field(min_length=1)]
    base: str


class UnloadAdapter(Strict):
    """``POST /admin/adapters/unload``."""

    name: str


def routes(server: Server) -> list[Route]:
    """The state, and one POST for each change."""
    catalog = server.catalog
    keeper = None
    if server.state_folder is not None:
        keeper = CatalogKeeper(catalog, server.state_folder / "catalog.json")
        server.workers.append(keeper)

    def changed(_: object = None) -> Response:
        if keeper is not None:
            keeper.save()
        return JSONResponse(state_of(catalog))

    async def begun(task: asyncio.Task[object], wait: bool) -> Response:
        changed()
        task.add_done_callback(changed)
        return await _begun(catalog, task, wait)

    async def state(http: Request) -> Response:
        return JSONResponse(state_of(catalog))

    async def load(http: Request) -> Response:
        asked = Load.model_validate(await read_json(http, server.limits))
        task = catalog.load(asked.name, asked.source, asked.version, default=asked.default)
        return await begun(task, asked.wait)

    async def unload(http: Request) -> Response:
        asked = Unload.model_validate(await read_json(http, server.limits))
        task = catalog.unload(asked.name, asked.version, timeout_s=asked.timeout)
        return await begun(task, asked.wait)

    async def default(http: Request) -> Response:
        asked = Default.model_validate(await read_json(http, server.limits))
        catalog.set_default(asked.name, asked.version)
        return changed()

    async def canary(http: Request) -> Response:
        asked = CanaryOf.model_validate(await read_json(http, server.limits))
        canary = Canary(asked.version, asked.percent)
        catalog.set_canary(asked.name, canary if asked.percent else None)
        return changed()

    async def load_adapter(http: Request) -> Response:
        asked = LoadAdapter.model_validate(await read_json(http, server.limits))
        await catalog.load_adapter(asked.name, asked.source, asked.base)
        return changed()

    async def unload_adapter(http: Request) -> Response:
        asked = UnloadAdapter.model_validate(await read_json(http, server.limits))
        await catalog.adapters.unload(asked.name)
        return changed()

    posts = {
        "models/load": load,
        "models/unload": unload,
        "models/default": default,
        "models/canary": canary,
        "adapters/load": load_adapter,
        "adapters/unload": unload_adapter,
    }
    return [
        Route("/admin/models", _guarded(server, state)),
        *(
            Route(f"/admin/{path}", _guarded(server, handler), methods=["POST"])
            for path, handler in posts.items()
        ),
    ]


def _guarded(server: Server, handler: Handler) -> Handler:
    """`handler` for whoever may."""

    async def checked(http: Request) -> Response:
        check_admin(http, server.keyring, server.admin_key)
        return await handler(http)

    return checked


async def _begun(catalog: Catalog, task: asyncio.Task[object], wait: bool) -> Response:
    """The state when a task has begun, or is done. The task goes on if the client leaves."""
    try:
        if wait:
            await asyncio.shield(task)
    except (SourceError, FileFormatError) as error:  # what was asked for, not our failure
        raise RequestError(str(error)) from error
    return JSONResponse(state_of(catalog), 200 if wait else 202)


def state_of(catalog: Catalog) -> Json:
    """Every version and adapter, and the memory that is left for more."""
    return {
        "object": "list",
        "data": [_entry_state(catalog, entry) for entry in catalog.entries()],
        "memory_available_bytes": available_bytes(),
    }


def _entry_state(catalog: Catalog, entry: Entry) -> Json:
    state: Json = {
        "name": entry.name,
        "version": entry.version,
        "state": entry.state,
        "source": entry.source,
    }
    if entry.error is not None:
        state["error"] = entry.error
    if entry.served is None:
        return state
    served = entry.served
    state |= {
        "exchanges": served.users.count,
        "requests": served.service.requests_open,
        "adapters": catalog.adapters.of(served),
    }
    if entry.state == "serving":
        versions = catalog.versions(entry.name)
        canary = versions.canary
        state["default"] = versions.default == entry.version
        taken = canary is not None and canary.version == entry.version
        state["canary_percent"] = canary.percent if canary is not None and taken else 0
    return state

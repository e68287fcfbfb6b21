"""The application: routes over a server. `slipstream serve` and tests call `make_app`.

Built on Starlette itself: bodies are validated by pydantic into OpenAI's own error shape, and the
import costs a quarter of FastAPI's, which counts towards the first token after a start.
"""

from collections.abc import Iterable
from importlib import import_module
from typing import Any

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.types import Receive, Scope, Send

from slipstream.engine.engine import Engine
from slipstream.errors import SlipstreamError
from slipstream.serve import middleware
from slipstream.serve.admission import AdmissionLimits
from slipstream.serve.catalog import Catalog, Served
from slipstream.serve.leases import Leases
from slipstream.serve.routes import chat, completions, models, operations, page
from slipstream.serve.server import Server

REFUSED = (HTTPException, SlipstreamError, ValidationError, Exception)
ROUTES = (chat, completions, models, operations, page)
# Modules in `routes` that are imported by the first request that none of the above answers: 50 ms
# of processor time that most starts never need.
LATE = ("responses", "embeddings", "tokenize", "ollama", "admin", "document")
WITH_STATE = ("files", "batches")  # have work to do from the start where there is a state folder


def make_app(
    engine: Engine,
    *,
    name: str | None = None,
    limits: AdmissionLimits | None = None,
    **doors: Any,
) -> Starlette:
    """An ASGI application that serves `engine` as `name`; its lifespan runs the engine's thread.

    `doors`: keyring, origins and tracer of the `Server`.
    """
    limits = limits or AdmissionLimits()
    catalog = Catalog([Served(name or engine.name, engine, limits)])
    return make_server_app(Server(catalog, limits, **doors))


def make_server_app(server: Server) -> Starlette:
    """The application of a server, whatever its catalog holds."""
    early = [] if server.state_folder is None else _modules(WITH_STATE)
    app = Starlette(
        routes=[route for module in (*ROUTES, *early) for route in module.routes(server)],
        exception_handlers=dict.fromkeys(REFUSED, server.refuse),
        middleware=[*middleware.layers(server), Middleware(Leases)],
        lifespan=server.lifespan,
    )
    app.state.server = server
    app.router.default = _add_late
    return app


def complete(app: Starlette) -> None:
    """Adds the routes that wait for their first request, if they are not there yet."""
    if app.router.default is not _add_late:
        return
    server: Server = app.state.server
    names = LATE if server.state_folder is not None else (*LATE, *WITH_STATE)
    for module in _modules(names):
        app.router.routes += module.routes(server)
    app.router.default = app.router.not_found


async def _add_late(scope: Scope, receive: Receive, send: Send) -> None:
    """What answers paths that no route knows, until all routes are there."""
    complete(scope["app"])
    await scope["app"].router(scope, receive, send)


def _modules(names: Iterable[str]) -> list[Any]:
    return [import_module(f"slipstream.serve.routes.{name}") for name in names]

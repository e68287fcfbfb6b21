"""The application: routes over a server. `slipstream serve` and tests call `make_app`.

Built on Starlette itself: bodies are validated by pydantic into OpenAI's own error shape, and the
import costs a quarter of FastAPI's, which counts towards the first token after a start.
"""

from typing import Any

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware

from slipstream.engine.engine import Engine
from slipstream.errors import SlipstreamError
from slipstream.serve import middleware
from slipstream.serve.admission import AdmissionLimits
from slipstream.serve.catalog import Catalog, Served
from slipstream.serve.leases import Leases
from slipstream.serve.routes import (
    admin,
    batches,
    chat,
    completions,
    document,
    embeddings,
    files,
    models,
    ollama,
    operations,
    page,
    responses,
    tokenize,
)
from slipstream.serve.server import Server

REFUSED = (HTTPException, SlipstreamError, ValidationError, Exception)
ROUTES = (
    admin,
    chat,
    completions,
    responses,
    embeddings,
    tokenize,
    files,
    batches,
    ollama,
    models,
    operations,
    document,
    page,
)


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
    app = Starlette(
        routes=[route for module in ROUTES for route in module.routes(server)],
        exception_handlers=dict.fromkeys(REFUSED, server.refuse),
        middleware=[*middleware.layers(server), Middleware(Leases)],
        lifespan=server.lifespan,
    )
    app.state.server = server
    return app

"""``/v1/models``."""

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from slipstream.serve.catalog import Served
from slipstream.serve.replies import Json
from slipstream.serve.server import Server


def routes(server: Server) -> list[Route]:
    """The list of models, and one of them."""

    async def models(http: Request) -> Response:
        catalog = server.catalog
        defaults = {served.name: served for served in reversed(catalog.listed())}
        cards = [
            model_card(served, served.name if defaults[served.name] is served else served.label)
            for served in catalog.listed()
        ]
        return JSONResponse({"object": "list", "data": cards})

    async def model(http: Request) -> Response:
        name = http.path_params["model"]
        return JSONResponse(model_card(server.catalog.choose(name), name))

    return [Route("/v1/models", models), Route("/v1/models/{model:path}", model)]


def model_card(served: Served, name: str) -> Json:
    """A model as OpenAI lists it, under the name that it is asked for by, with its context."""
    return {
        "id": name,
        "object": "model",
        "created": served.created,
        "owned_by": "slipstream",
        "max_model_len": served.engine.settings.context,
        "version": served.version,
    }

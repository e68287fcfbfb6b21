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
        cards = [model_card(served) for served in server.catalog]
        return JSONResponse({"object": "list", "data": cards})

    async def model(http: Request) -> Response:
        return JSONResponse(model_card(server.catalog.choose(http.path_params["model"])))

    return [Route("/v1/models", models), Route("/v1/models/{model:path}", model)]


def model_card(served: Served) -> Json:
    """A model as OpenAI lists it, with its context."""
    return {
        "id": served.name,
        "object": "model",
        "created": served.created,
        "owned_by": "slipstream",
        "max_model_len": served.engine.settings.context,
    }

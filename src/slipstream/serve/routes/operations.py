"""``/health`` and ``/metrics``: what operators and their programs read."""

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from slipstream.serve.metrics import Metrics
from slipstream.serve.server import Server


def routes(server: Server) -> list[Route]:
    """Health and metrics."""

    async def health(http: Request) -> Response:
        alive = all(served.service.alive for served in server.catalog)
        return JSONResponse({"status": "ok" if alive else "stopping"}, 200 if alive else 503)

    async def metrics(http: Request) -> Response:
        text = b"".join(served.metrics.text() for served in server.catalog)
        return Response(text, media_type=Metrics.content_type)

    return [Route("/health", health), Route("/metrics", metrics)]

"""``/openapi.json``: the API document."""

import asyncio
from functools import cache

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from slipstream.serve.server import Server


def routes(server: Server) -> list[Route]:
    """The document of the application that serves it."""

    @cache
    def built(app: object) -> Response:
        # Not imported with the server: its schemas would be part of every start.
        from slipstream.serve.openapi import document  # noqa: PLC0415

        return JSONResponse(document(app.routes))  # type: ignore[attr-defined]

    async def openapi(http: Request) -> Response:
        return await asyncio.to_thread(built, http.app)

    return [Route("/openapi.json", openapi, methods=["GET"])]

"""``/``: a small page to chat with the model and watch the server; plain files of the package.

It asks only this server (its Content-Security-Policy allows nothing else) and needs no build.
"""

from importlib.resources import files

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from slipstream.serve.server import Server

TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
NAMES = ("style.css", "app.js", "ask.js", "live.js", "text.js", "icon.svg")
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def routes(server: Server) -> list[Route]:
    """The page and its files; they are the same for every server."""

    async def page(http: Request) -> Response:
        return _file("index.html")

    async def part(http: Request) -> Response:
        name = http.path_params["name"]
        if name not in NAMES:
            raise HTTPException(404, f"the page has no file {name}")
        return _file(name)

    return [Route("/", page), Route("/page/{name}", part)]


def _file(name: str) -> Response:
    content = (files("slipstream.serve") / "page" / name).read_bytes()
    return Response(content, headers=HEADERS, media_type=TYPES[name.rpartition(".")[2]])

"""Answers the lines of a batch by the very routes that answer live requests, within the process.

So a line is validated, computed and refused exactly as over HTTP; only the socket, the API key and
the request's line in the log are left out.
"""

import asyncio
import json
from typing import Any
from uuid import uuid4

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.types import Message

from slipstream.errors import SlipstreamError
from slipstream.serve.batch_jobs import LineReply
from slipstream.serve.batch_lines import Line
from slipstream.serve.leases import Leases
from slipstream.serve.routes import chat, completions, embeddings
from slipstream.serve.server import Server

REFUSED = (HTTPException, SlipstreamError, ValidationError, Exception)
STREAMED = {
    "error": {
        "message": "stream: a line of a batch cannot be streamed",
        "type": "invalid_request_error",
        "param": "stream",
        "code": "invalid_value",
    }
}


class RouteAnswers:
    """Calls the routes of a server for one account.

    priority  of requests that do not say one; below that of live ones, where both are served
    model     answers every line, whatever model it names (None: the one it names)
    """

    def __init__(
        self, server: Server, *, account: str = "", priority: int = 0, model: str | None = None
    ) -> None:
        routed = [
            route for part in (chat, completions, embeddings) for route in part.routes(server)
        ]
        self._app = Starlette(
            routes=routed,
            exception_handlers=dict.fromkeys(REFUSED, server.refuse),
            middleware=[Middleware(Leases)],
        )
        self._account = account
        self._headers = [
            (b"content-type", b"application/json"),
            (b"x-request-priority", str(priority).encode()),
        ]
        self._model = model

    async def __call__(self, line: Line) -> LineReply:
        """Answers one line."""
        if line.body.get("stream"):
            return LineReply(400, uuid4().hex, STREAMED)
        body = line.body if self._model is None else {**line.body, "model": self._model}
        exchange = _Exchange(json.dumps(body).encode())
        request_id = uuid4().hex
        scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": line.url,
            "raw_path": line.url.encode(),
            "root_path": "",
            "query_string": b"",
            "headers": self._headers,
            "state": {"account": self._account, "request_id": request_id},
        }
        try:
            await self._app(scope, exchange.receive, exchange.send)
        except Exception:  # answered in words already; Starlette raises it once more for the log
            if not exchange.status:
                raise
        return exchange.reply(request_id)


class _Exchange:
    """One request without a socket."""

    def __init__(self, body: bytes) -> None:
        self.status = 0
        self._body: bytes | None = body
        self._headers: dict[bytes, bytes] = {}
        self._answer = bytearray()

    async def receive(self) -> Message:
        """The body; after that nothing ever comes, since nobody can leave."""
        if self._body is None:
            await asyncio.get_running_loop().create_future()
        body, self._body = self._body, None
        return {"type": "http.request", "body": body or b"", "more_body": False}

    async def send(self, message: Message) -> None:
        """Collects the answer."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self._headers = dict(message["headers"])
        else:
            self._answer += message.get("body", b"")

    def reply(self, request_id: str) -> LineReply:
        """What has been sent."""
        after = self._headers.get(b"retry-after", b"1")
        seconds = float(after) if after.isdigit() else 1.0
        return LineReply(self.status, request_id, json.loads(bytes(self._answer)), seconds)

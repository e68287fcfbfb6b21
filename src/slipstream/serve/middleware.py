"""What every request passes before its route: a name, a key, a place; and its line in the log.

    Frame   id, trace, log, failures in words          (every request)
      CORS  what browsers may do from elsewhere         (Starlette's; only if origins are given)
        Gate  draining, API key, requests a minute      (all but the public paths)

`app.make_server_app` puts them around the routes.
"""

import logging
import re
import time
import uuid
from contextlib import ExitStack
from typing import TYPE_CHECKING

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from slipstream.errors import OverloadedError, UnavailableError
from slipstream.serve.refusal import Unauthorized, refusal_of
from slipstream.serve.tracing import Span

if TYPE_CHECKING:
    from slipstream.serve.server import Server

log = logging.getLogger("slipstream.serve")
access_log = logging.getLogger("slipstream.access")

REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
# No API key, also while draining; /admin asks for a key of its own.
PUBLIC = re.compile(r"/(health|ready|favicon\.ico|page/[a-z.]+|admin/.*)?")
CLIENT_CLOSED = 499  # in logs and traces: nobody is there to receive it
EXPOSED = ("x-request-id", "retry-after")


def layers(server: "Server") -> list[Middleware]:
    """The layers, outermost first."""
    cors = Middleware(
        CORSMiddleware,
        allow_origins=server.cors_origins,
        allow_methods=("GET", "POST", "DELETE"),
        allow_headers=("*",),
        expose_headers=EXPOSED,
    )
    inner = [cors] if server.cors_origins else []
    return [Middleware(Frame, server=server), *inner, Middleware(Gate, server=server)]


class Frame:
    """Names each request, logs it, and turns what nobody caught into words."""

    def __init__(self, app: ASGIApp, server: "Server") -> None:
        self.app = app
        self.server = server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        exchange = Exchange(scope, send, self.server)
        headers = exchange.headers
        with (
            self.server.traffic.request(),
            self.server.tracer.request(scope["method"], scope["path"], headers) as span,
        ):
            try:
                await self.app(scope, receive, exchange.send)
            except Exception as error:
                await exchange.fail(error, receive)
            finally:
                span.answered(exchange.status, exchange.request_id)
                exchange.log(span)


class Exchange:
    """One request with its response: what `Frame` knows about it."""

    def __init__(self, scope: Scope, send: Send, server: "Server") -> None:
        self.headers = Headers(scope=scope)
        asked = self.headers.get("x-request-id", "")
        self.request_id = asked if REQUEST_ID.fullmatch(asked) else uuid.uuid4().hex
        self.status = 0
        self._scope = scope
        self._send = send
        self._server = server
        self._started_s = time.perf_counter()
        scope.setdefault("state", {})["request_id"] = self.request_id

    async def send(self, message: Message) -> None:
        """Passes a message on; the first one gets the id of the request."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["x-request-id"] = self.request_id
            if self._server.traffic.draining:
                headers["connection"] = "close"
        await self._send(message)

    async def fail(self, error: Exception, receive: Receive) -> None:
        """Answers with the error in words if nothing has been answered yet."""
        if isinstance(error, ClientDisconnect):
            self.status = self.status or CLIENT_CLOSED
            return
        log.exception("request %s failed", self.request_id, exc_info=error)
        if self.status:
            raise error  # the connection is closed: the client sees that the answer is cut
        refusal = refusal_of(error)
        self._server.metrics.count_refused(refusal.status)
        await refusal.response()(self._scope, receive, self.send)

    def log(self, span: Span) -> None:
        """One line for the request, without a word of its text."""
        if not access_log.isEnabledFor(logging.INFO):
            return
        fields = {
            "request_id": self.request_id,
            "method": self._scope["method"],
            "path": self._scope["path"],
            "status": self.status,
            "account": self._scope["state"].get("account", ""),
            "seconds": round(time.perf_counter() - self._started_s, 6),
            **span.totals,
        }
        access_log.info("request", extra={"fields": fields})


class Gate:
    """Lets in who has a key and has not sent too much."""

    def __init__(self, app: ASGIApp, server: "Server") -> None:
        self.app = app
        self.server = server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http" or PUBLIC.fullmatch(scope["path"]):
            await self.app(scope, receive, send)
            return
        with ExitStack() as place:
            try:
                self._enter(scope, place)
            except (Unauthorized, OverloadedError, UnavailableError) as error:
                response = await self.server.refuse(Request(scope), error)
                await response(scope, receive, send)
            else:
                await self.app(scope, receive, send)

    def _enter(self, scope: Scope, place: ExitStack) -> None:
        if self.server.traffic.draining:
            raise UnavailableError("the server is stopping; send the request to another one")
        account = self._account(Headers(scope=scope))
        scope["state"]["account"] = account
        if scope["method"] == "POST":  # reading costs nothing
            place.enter_context(self.server.limits.accounts.of(account).request())

    def _account(self, headers: Headers) -> str:
        keyring = self.server.keyring
        if keyring.open:
            return ""
        kind, _, key = headers.get("authorization", "").partition(" ")
        key = key.strip() if kind.lower() == "bearer" else headers.get("x-api-key", "")
        if not key:
            raise Unauthorized("this server needs an API key: Authorization: Bearer KEY")
        name = keyring.name_of(key)
        if name is None:
            raise Unauthorized("this API key is not known here")
        return name

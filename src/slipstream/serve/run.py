"""Runs the application: sockets, signals, draining. `slipstream serve` calls `run_server`.

SIGTERM or Ctrl-C: new requests are refused in words, every request under way is answered, then the
process ends. A second Ctrl-C ends it at once. SIGHUP reads the API keys again.
"""

import asyncio
import logging
import select
import signal
import socket
import stat
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import uvicorn
from starlette.applications import Starlette

from slipstream.errors import MachineError
from slipstream.serve import server as serving
from slipstream.serve.logs import set_up_logging
from slipstream.serve.protocol import protocol_for

log = logging.getLogger("slipstream.serve")

KEEP_ALIVE_S = 30
GOODBYE_S = 5.0  # for words to reach those whose time to drain is over
LAST_CALL_S = 0.25  # for requests on connections that were made before the doors closed
BACKLOG = 2048


@dataclass(frozen=True)
class Address:
    """Where to listen; port 0 takes a free one.

    uds        a Unix socket instead of host and port
    cert, key  PEM files: with them it is HTTPS
    """

    host: str = "127.0.0.1"
    port: int = 8000
    uds: Path | None = None
    cert: Path | None = None
    key: Path | None = None


class Runner(uvicorn.Server):
    """A uvicorn server that says when it is ready, and drains before it closes its doors."""

    def __init__(
        self,
        config: uvicorn.Config,
        server: serving.Server,
        on_ready: Callable[[], None],
        drain_timeout_s: float | None,
    ) -> None:
        super().__init__(config)
        self._server = server
        self._on_ready = on_ready
        self._drain_timeout_s = drain_timeout_s

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal drains and the process ends well; a second Ctrl-C does not wait."""
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True
        self._server.traffic.draining = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Starts listening, then calls `on_ready`."""
        await super().startup(sockets)
        if not self.started:
            return
        if threading.current_thread() is threading.main_thread():
            asyncio.get_running_loop().add_signal_handler(
                signal.SIGHUP, self._server.keyring.reload
            )
        self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answers what is under way, refusing what still comes; then closes the doors."""
        self._server.traffic.draining = True
        if not await self._emptied(self._drain_timeout_s) and not self.force_exit:
            log.warning(
                "%d requests were not answered within the drain timeout and are told so",
                self._server.traffic.requests_open,
            )
            await self._server.catalog.stop()
            await self._emptied(GOODBYE_S)
        if not self.force_exit:
            await self._close_doors(sockets or [])
        await super().shutdown(sockets)

    async def _close_doors(self, listeners: list[socket.socket]) -> None:
        """Completes no more connections, and answers those that are complete already.

        Closing a listener at once would reset whatever waits in its queue, without a word.
        """
        for listener in listeners:
            listener.listen(0)
        end = time.monotonic() + GOODBYE_S
        await asyncio.sleep(LAST_CALL_S)
        while time.monotonic() < end and _waiting(listeners):
            await asyncio.sleep(0.01)
        for server in self.servers:
            server.close()
        await asyncio.sleep(LAST_CALL_S)
        await self._emptied(GOODBYE_S)

    async def _emptied(self, timeout_s: float | None) -> bool:
        """Waits until no request is under way; False when it takes too long or a user insists."""
        end = None if timeout_s is None else time.monotonic() + timeout_s
        while self._server.traffic.requests_open:
            if self.force_exit or (end is not None and time.monotonic() > end):
                return False
            await asyncio.sleep(0.05)
        return True


def _waiting(listeners: list[socket.socket]) -> bool:
    """Whether a connection waits to be accepted."""
    return bool(select.select(listeners, [], [], 0)[0])


def run_server(
    app: Starlette,
    address: Address,
    on_ready: Callable[[str], None],
    *,
    json_logs: bool = False,
    drain_timeout_s: float | None = None,
) -> None:
    """Serves until told to stop; `on_ready` gets the URL. MachineError: the address is not free.

    `drain_timeout_s`: how long requests under way may go on after SIGTERM; None: to their end.
    """
    server: serving.Server = app.state.server
    listener = listen(address)
    set_up_logging(json_logs)
    config = config_for(app, server, address)
    url = url_of(listener, secure=address.cert is not None)
    try:
        Runner(config, server, lambda: on_ready(url), drain_timeout_s).run(sockets=[listener])
    finally:
        if address.uds is not None:
            address.uds.unlink(missing_ok=True)


def config_for(app: Starlette, server: serving.Server, address: Address) -> uvicorn.Config:
    """Complete and loaded. MachineError: the certificate or its key cannot be used."""
    config = uvicorn.Config(
        app,
        http=protocol_for(server),
        ws="none",
        log_config=None,
        access_log=False,
        lifespan="on",
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=int(server.limits.write_timeout_s + GOODBYE_S),
        h11_max_incomplete_event_size=server.limits.header_bytes,
        server_header=False,
        headers=[("server", "slipstream")],
        ssl_certfile=address.cert,
        ssl_keyfile=address.key,
    )
    try:
        config.load()
    except OSError as error:  # ssl.SSLError is one
        raise MachineError(f"the TLS certificate or key cannot be used: {error}") from error
    return config


def listen(address: Address) -> socket.socket:
    """A bound socket, so that a port in use is an error of one line."""
    if address.uds is not None:
        return _listen_unix(address.uds)
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    # The protocol is named so that asyncio sets TCP_NODELAY on connections: without it the end of
    # an answer waits 40 ms for the client's delayed acknowledgement of what came before.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((address.host, address.port))
    except (OSError, OverflowError) as error:
        listener.close()
        raise MachineError(
            f"cannot listen on {address.host}:{address.port}: {error}; choose another --port"
        ) from error
    return listener


def _listen_unix(path: Path) -> socket.socket:
    """A Unix socket that its owner and group may use; one left behind by a dead server goes."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.exists() and stat.S_ISSOCK(path.stat().st_mode) and not _answers(path):
            path.unlink()
        listener.bind(str(path))
        path.chmod(0o660)
    except OSError as error:
        listener.close()
        raise MachineError(f"cannot listen on {path}: {error}; choose another --uds") from error
    return listener


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        return caller.connect_ex(str(path)) == 0


def url_of(listener: socket.socket, *, secure: bool = False) -> str:
    """``http://127.0.0.1:8000``, or ``unix:/run/slipstream.sock``."""
    if listener.family == socket.AF_UNIX:
        return f"unix:{listener.getsockname()}"
    host, port = listener.getsockname()[:2]
    scheme = "https" if secure else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"

"""Runs the application: sockets, signals, logs. `slipstream serve` calls `run_server`.

SIGTERM or Ctrl-C: no new connections, every request under way is answered, then the process ends.
A second Ctrl-C ends it at once.
"""

import json
import logging
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from slipstream.errors import MachineError


@dataclass(frozen=True)
class Address:
    """Where to listen; port 0 takes a free one."""

    host: str = "127.0.0.1"
    port: int = 8000


class Server(uvicorn.Server):
    """A uvicorn server that says when it is ready."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal drains and the process ends well; a second Ctrl-C does not wait."""
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Starts listening, then calls `on_ready`."""
        await super().startup(sockets)
        if self.started:
            self._on_ready()


def run_server(
    app: ASGIApp, address: Address, on_ready: Callable[[str], None], *, json_logs: bool = False
) -> None:
    """Serves until told to stop; `on_ready` gets the URL. MachineError: the address is not free."""
    listener = listen(address)
    set_up_logging(json_logs)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=json_logs,
        lifespan="on",
        timeout_keep_alive=30,
        h11_max_incomplete_event_size=64 * 1024,
    )
    url = url_of(listener)
    Server(config, lambda: on_ready(url)).run(sockets=[listener])


def listen(address: Address) -> socket.socket:
    """A bound socket, so that a port in use is an error of one line."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((address.host, address.port))
    except (OSError, OverflowError) as error:
        listener.close()
        raise MachineError(
            f"cannot listen on {address.host}:{address.port}: {error}; choose another --port"
        ) from error
    return listener


def url_of(listener: socket.socket) -> str:
    """``http://127.0.0.1:8000``."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def set_up_logging(as_json: bool) -> None:
    """Logs to stderr: warnings as lines, or (`as_json`) every request as a JSON object."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        JsonFormatter() if as_json else logging.Formatter("%(levelname)s %(name)s: %(message)s")
    )
    logging.basicConfig(level=logging.INFO if as_json else logging.WARNING, handlers=[handler])


class JsonFormatter(logging.Formatter):
    """One JSON object a line; never the text of prompts or answers, which nobody logs."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON."""
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)

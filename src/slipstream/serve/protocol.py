"""HTTP connections that cannot be held open for nothing: `run.run_server` gives this to uvicorn.

    headers   must arrive within `header_timeout_s`, counted from their first wait
    reading   a client must read something of what is sent within `write_timeout_s`
    closing   what is left to send when a connection closes has `write_timeout_s` as well
    number    connections beyond the most are told so and closed

Bytes that are not HTTP are answered with 400 in words. Bodies have their time in `body`.
"""

import asyncio
import json
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from slipstream.serve.admission import AdmissionLimits
from slipstream.serve.refusal import Refusal
from slipstream.serve.server import Server

PROGRESS_BYTES = 16 * 1024  # a client that reads less in a whole `write_timeout_s` is not reading
NOT_HTTP = "this is not a request of HTTP/1.1, or its headers are longer than {} bytes"
CHUNKED = b"\r\ntransfer-encoding: chunked\r\n"
REASONS = {400: "Bad Request", 503: "Service Unavailable"}


def protocol_for(server: Server) -> type[H11Protocol]:
    """The protocol class of a server's connections."""

    class Connection(GuardedProtocol):
        limits = server.limits
        traffic = server.traffic

    return Connection


class ChunkWriter(h11.Connection):
    """h11's connection, which writes the chunks of a stream in a tenth of the time.

    Between a head that announces chunks and the end of the message there is nothing to decide:
    h11 wrote the head, and says when the message may end.
    """

    _chunked = False

    def send(self, event: Any) -> Any:
        """The bytes of an event, as h11 writes them."""
        if self._chunked and type(event) is h11.Data:
            return b"%x\r\n%b\r\n" % (len(event.data), event.data) if event.data else b""
        written = super().send(event)
        if type(event) is h11.Response:
            self._chunked = CHUNKED in (written or b"").lower()
        elif type(event) is h11.EndOfMessage:
            self._chunked = False
        return written


class GuardedProtocol(H11Protocol):
    """One connection, with its clocks."""

    limits: AdmissionLimits
    traffic: Any

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.conn = ChunkWriter(h11.SERVER, self.limits.header_bytes)
        self._reading: asyncio.TimerHandle | None = None
        self._writing: asyncio.TimerHandle | None = None
        self._left = 0  # bytes unsent when the clock last looked
        self._counted = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected."""
        super().connection_made(transport)
        if self.traffic.connections_open >= self.limits.connections:
            self.traffic.connections_refused += 1
            self._say(Refusal(503, "too many connections are open; try again later"))
            return
        self.traffic.connections_open += 1
        self._counted = True
        self._watch_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self.traffic.connections_open -= self._counted
        self._counted = False
        for timer in (self._reading, self._writing):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes have come."""
        super().data_received(data)
        self._watch_reading()

    def on_response_complete(self) -> None:
        """A response is out; the next request may be waiting already."""
        super().on_response_complete()
        self._watch_reading()
        self._linger()

    def timeout_keep_alive_handler(self) -> None:
        """Nothing was asked for a while."""
        super().timeout_keep_alive_handler()
        self._linger()

    def shutdown(self) -> None:
        """The server stops."""
        super().shutdown()
        self._linger()

    def send_400_response(self, msg: str) -> None:
        """Not HTTP: told in words, unless an answer is on its way already."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self._say(Refusal(400, NOT_HTTP.format(self.limits.header_bytes)))
        else:
            self.transport.close()
            self._linger()

    def pause_writing(self) -> None:
        """The client reads more slowly than we send."""
        super().pause_writing()
        self._watch_writing()

    def resume_writing(self) -> None:
        """It has read."""
        super().resume_writing()
        if self._writing is not None and not self.transport.is_closing():
            self._writing.cancel()
            self._writing = None

    def _watch_reading(self) -> None:
        """Keeps the clock running while headers are due, or a body that nobody wants flows in."""
        owed = self.conn.their_state is h11.IDLE and (
            self.cycle is None or bool(self.conn.trailing_data[0])
        )
        unwanted = self.conn.their_state is h11.SEND_BODY and self.conn.our_state is h11.DONE
        if not owed and not unwanted:
            if self._reading is not None:
                self._reading.cancel()
                self._reading = None
        elif self._reading is None:
            self._reading = self.loop.call_later(self.limits.header_timeout_s, self._drop)

    def _watch_writing(self) -> None:
        if self._writing is None:
            self._left = self.transport.get_write_buffer_size()
            self._writing = self.loop.call_later(self.limits.write_timeout_s, self._look)

    def _look(self) -> None:
        """Drops a client that has read next to nothing since the last look."""
        self._writing = None
        left = self.transport.get_write_buffer_size()
        if left > self._left - PROGRESS_BYTES:
            self._drop()
        else:
            self._watch_writing()

    def _linger(self) -> None:
        """A closing connection has its time too."""
        if self.transport.is_closing() and self.transport.get_write_buffer_size():
            self._watch_writing()

    def _drop(self) -> None:
        self.traffic.connections_dropped += 1
        self.transport.abort()

    def _say(self, refusal: Refusal) -> None:
        """A whole response by hand, and the end."""
        body = json.dumps(refusal.body()).encode()
        head = (
            f"HTTP/1.1 {refusal.status} {REASONS[refusal.status]}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
            "connection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()
        self._linger()

"""Streams of events, and noticing that nobody listens any more.

An `EventStream` is the response of a streaming request; its `Framing` says how events become
bytes. `unless_gone` runs any work for a client and stops it when the client leaves, so that its
pages are freed at once.
"""

import asyncio
import uuid
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

from pydantic_core import to_json
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from slipstream.engine.answer import Delta
from slipstream.serve.refusal import Refusal, refusal_of

Event = dict[str, Any]
News = tuple[int, Sequence[Delta]]  # an answer's index, and what has come of it; never nothing
Result = TypeVar("Result")

HOLE = uuid.uuid4().hex  # nobody can say this by chance
EVENT_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


class Source(Protocol):
    """One answer's deltas."""

    async def more(self) -> Sequence[Delta]:
        """What has come since the last call, waiting for something; nothing after the end."""
        ...


class ClientGone(Exception):
    """The client has closed the connection: there is nobody to answer."""


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, Result]) -> Result:
    """The result of `work`; ClientGone, and `work` is cancelled, if the client leaves before.

    The request's body has been read: all that `receive` can still bring is the disconnect.
    """
    worker = asyncio.create_task(work)
    watcher = asyncio.create_task(_disconnect(receive))
    try:
        await asyncio.wait({worker, watcher}, return_when=asyncio.FIRST_COMPLETED)
        if not worker.done():
            raise ClientGone
        return worker.result()
    finally:
        worker.cancel()
        watcher.cancel()
        await asyncio.gather(worker, watcher, return_exceptions=True)


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def merged(streams: Sequence[Source]) -> AsyncGenerator[News, None]:
    """The deltas of several answers as they come, each time with the index of the stream."""
    if len(streams) == 1:
        while deltas := await streams[0].more():
            yield 0, deltas
        return
    queue: asyncio.Queue[News | Exception | None] = asyncio.Queue()

    async def forward(index: int, stream: Source) -> None:
        try:
            while deltas := await stream.more():
                queue.put_nowait((index, deltas))
            queue.put_nowait(None)
        except Exception as error:
            queue.put_nowait(error)

    tasks = [asyncio.create_task(forward(i, s)) for i, s in enumerate(streams)]
    try:
        open_streams = len(streams)
        while open_streams:
            item = await queue.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                open_streams -= 1
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()


@dataclass(frozen=True)
class Framing:
    """How one API writes events, a failure within the stream, and the end of it."""

    media_type: str
    event: Callable[[Event], bytes]
    error: Callable[[Refusal], bytes]
    end: bytes


class Burst(NamedTuple):
    """Events that are sent together, in one write; `last`: the stream ends with them."""

    events: Sequence[Event | bytes]  # bytes are framed already
    last: bool = False


class EventStream(Response):
    """Sends each burst of events as it comes, then the framing's end.

    Headers wait for the first event, so that what fails before it is refused with a status of its
    own. A failure after that is sent as an error event: the client is told, never left hanging.
    """

    def __init__(self, bursts: AsyncGenerator[Burst, None], framing: Framing | None = None) -> None:
        self._framing = framing or SERVER_SENT
        super().__init__(headers=EVENT_HEADERS, media_type=self._framing.media_type)
        del self.headers["content-length"]
        self._bursts = bursts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI: runs the stream until it ends or the client leaves."""
        try:
            await unless_gone(receive, self._send_all(send))
        except ClientGone:
            return

    async def _send_all(self, send: Send) -> None:
        async with aclosing(self._bursts) as bursts:
            burst = await anext(bursts)
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            try:
                while not burst.last:
                    await send(self._body(burst))
                    burst = await anext(bursts)
            except Exception as error:
                told = self._framing.error(refusal_of(error)) + self._framing.end
                await send(_body(told, last=True))
            else:
                await send(self._body(burst))

    def _body(self, burst: Burst) -> Message:
        write = self._framing.event
        data = b"".join([one if isinstance(one, bytes) else write(one) for one in burst.events])
        return _body(data + self._framing.end if burst.last else data, last=burst.last)


class Template:
    """A framed event that is always the same but for one text: most of a stream is such events.

    `content` has `HOLE` where the text goes.
    """

    def __init__(self, framing: Framing, content: Event) -> None:
        self._before, hole, self._after = framing.event(content).partition(to_json(HOLE))
        assert hole, "the event has no place for a text"

    def filled(self, text: str) -> bytes:
        """The event with this text."""
        return self._before + to_json(text) + self._after


def compact(content: Event) -> bytes:
    """JSON on one line; pydantic's writer takes a tenth of the time of Python's, for each token."""
    return to_json(content)


def _data(content: Event) -> bytes:
    return b"data: " + to_json(content) + b"\n\n"


def _body(data: bytes, *, last: bool) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": not last}


SERVER_SENT = Framing(
    "text/event-stream", _data, lambda refusal: _data(refusal.body()), b"data: [DONE]\n\n"
)

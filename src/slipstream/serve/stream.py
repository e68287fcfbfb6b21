"""Streams of events, and noticing that nobody listens any more.

An `EventStream` is the response of a streaming request; its `Framing` says how events become
bytes. `unless_gone` runs any work for a client and stops it when the client leaves, so that its
pages are freed at once.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic_core import to_json
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from slipstream.engine.answer import Delta
from slipstream.serve.refusal import Refusal, refusal_of

Event = dict[str, Any]
Result = TypeVar("Result")

EVENT_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


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


async def merged(streams: Sequence[AsyncIterator[Delta]]) -> AsyncIterator[tuple[int, Delta]]:
    """The deltas of several answers as they come, each with the index of its stream."""
    if len(streams) == 1:
        async for delta in streams[0]:
            yield 0, delta
        return
    queue: asyncio.Queue[tuple[int, Delta] | Exception | None] = asyncio.Queue()

    async def forward(index: int, stream: AsyncIterator[Delta]) -> None:
        try:
            async for delta in stream:
                queue.put_nowait((index, delta))
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


class EventStream(Response):
    """Sends each of `events` as it comes, then the framing's end.

    Headers wait for the first event, so that what fails before it is refused with a status of its
    own. A failure after that is sent as an error event: the client is told, never left hanging.
    """

    def __init__(self, events: AsyncIterator[Event], framing: Framing | None = None) -> None:
        self._framing = framing or SERVER_SENT
        super().__init__(headers=EVENT_HEADERS, media_type=self._framing.media_type)
        del self.headers["content-length"]
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI: runs the stream until it ends or the client leaves."""
        try:
            await unless_gone(receive, self._send_all(send))
        except ClientGone:
            return

    async def _send_all(self, send: Send) -> None:
        async with aclosing(self._events) as events:  # type: ignore[type-var]
            first = await anext(events)
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await send(_body(self._framing.event(first)))
            try:
                async for event in events:
                    await send(_body(self._framing.event(event)))
            except Exception as error:
                await send(_body(self._framing.error(refusal_of(error))))
            await send({**_body(self._framing.end), "more_body": False})


def compact(content: Event) -> bytes:
    """JSON on one line; pydantic's writer takes a tenth of the time of Python's, for each token."""
    return to_json(content)


def _data(content: Event) -> bytes:
    return b"data: " + to_json(content) + b"\n\n"


def _body(data: bytes) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": True}


SERVER_SENT = Framing(
    "text/event-stream", _data, lambda refusal: _data(refusal.body()), b"data: [DONE]\n\n"
)

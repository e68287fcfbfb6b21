"""An answer as it grows, for a program's own use: read with `for` or with `async for`.

`Engine.stream` and `Engine.generate` make these; servers use `service.Service` instead.
"""

from collections import deque
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Self

from slipstream.engine.answer import Delta
from slipstream.engine.request import Request

if TYPE_CHECKING:
    from slipstream.engine.engine import Engine


class DeltaStream(Iterator[Delta], AsyncIterator[Delta]):
    """One request's deltas; asking for the next one runs the engine as far as it takes.

    Several streams of one engine may be read in turn, or by several tasks and threads: each step
    serves them all. Read with `async for`, the steps run on a worker thread, so that a notebook's
    event loop goes on. Leaving it as a context, or `close`, cancels the request.
    """

    def __init__(self, engine: "Engine", request: Request) -> None:
        self.request = request
        self._engine = engine
        self._ended = False
        self._mail: deque[Delta] = deque()
        engine.submit(request, self._mail)

    def __next__(self) -> Delta:
        if self._ended:
            raise StopIteration
        while not self._mail:
            self._engine.advance(self._mail)
        return self._open()

    async def __anext__(self) -> Delta:
        import asyncio  # noqa: PLC0415  35 ms, which readers with `for` do not pay

        if self._ended:
            raise StopAsyncIteration
        while not self._mail:
            await asyncio.to_thread(self._engine.advance, self._mail)
        return self._open()

    def __aiter__(self) -> Self:
        return self

    def close(self) -> None:
        """Cancels what has not ended yet."""
        if not self._ended:
            self._ended = True
            self._engine.cancel(self.request.id)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> Delta:
        delta = self._mail.popleft()
        self._ended = delta.finish is not None
        if delta.error is not None:
            raise delta.error
        return delta

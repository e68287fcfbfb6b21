"""One client's side of an answer under way: what `service.Service` has delivered, to be read.

Belongs to the event loop of the service. A reader is woken once for all that has come meanwhile,
and a patient one only when the answer is complete: a wake-up costs more than a delta.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Self

from slipstream.engine.answer import Delta
from slipstream.engine.request import Request

Letter = Delta | Exception


class AnswerStream(AsyncIterator[Delta]):
    """One client's deltas. Use it as a context: leaving it early cancels the request.

    patient    `more` waits until the answer is complete, and its deltas may come late
    hear       gets each letter as it comes, in place of a reader
    arrived_s  when the last token came, as the service notes it

    >>> with service.submit(request) as stream:
    ...     async for delta in stream: ...
    """

    def __init__(
        self, request: Request, give_up: Callable[[int], None], *, patient: bool = False
    ) -> None:
        self.request = request
        self.patient = patient
        self.hear: Callable[[Letter], None] = self._keep
        self.arrived_s: float | None = None
        self._give_up = give_up
        self._news: list[Delta] = []
        self._error: Exception | None = None
        self._complete = False  # nothing more will come
        self._ended = False  # nothing more will be read
        self._opened: deque[Delta] = deque()  # taken from the news, not yet read one by one
        self._waiter: asyncio.Future[None] | None = None

    async def more(self) -> list[Delta]:
        """What has come since the last call, waiting for something; nothing after the end.

        Raises the error that has ended the answer once all before it has been read.
        """
        if self._ended:
            return []
        while not self._complete and (self.patient or not self._news):
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        news, self._news = self._news, []
        self._ended = self._complete and (self._error is None or not news)
        if self._ended and self._error is not None:
            raise self._error
        return news

    async def __anext__(self) -> Delta:
        if not self._opened:
            self._opened.extend(await self.more())
        if not self._opened:
            raise StopAsyncIteration
        return self._opened.popleft()

    def cancel(self) -> None:
        """Ends the request if it has not ended; its pages are free before the next step."""
        self._opened.clear()
        if not self._ended:
            self._ended = True
            self._give_up(self.request.id)

    def _keep(self, letter: Letter) -> None:
        if isinstance(letter, Exception):
            self._error = letter
        else:
            self._news.append(letter)
        self._complete = self._error is not None or self._news[-1].finish is not None
        if self._waiter is None or (self.patient and not self._complete):
            return
        waiter, self._waiter = self._waiter, None
        if not waiter.done():  # cancelled, with its reader
            waiter.set_result(None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()

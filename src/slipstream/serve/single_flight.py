"""Equal requests under way at once are computed once: the first starts a flight, others follow it.

    engine ──▶ flight: deltas so far [a b c d …]
                  ▲       ▲           ▲
              late joiner (a)    follower (c)   each reads from the first delta on, at its own pace

A flight goes on while anybody follows it, whoever began it; errors reach all. Each follower has its
own id, deadline and timings. Used by `answer_sources` within the event loop.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Self

from slipstream.engine.answer import Delta, Timings
from slipstream.engine.request import Request
from slipstream.engine.service import AnswerStream, Service

Keep = Callable[[Sequence[Delta]], Awaitable[None]]


class Flight:
    """One computation: what it has said so far, how it ended, how many follow it."""

    def __init__(self) -> None:
        self.deltas: list[Delta] = []
        self.error: Exception | None = None
        self.followers = 0
        self._waiting: list[asyncio.Future[None]] = []

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self.error is not None or bool(self.deltas and self.deltas[-1].finish)

    def push(self, news: Delta | Exception) -> None:
        """Adds a delta, or the error that ends the flight, and wakes those who wait."""
        if isinstance(news, Exception):
            self.error = news
        else:
            self.deltas.append(news)
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            if not one.done():  # cancelled, with its follower
                one.set_result(None)

    async def moved(self) -> None:
        """Waits for the next `push`."""
        moved = asyncio.get_running_loop().create_future()
        self._waiting.append(moved)
        await moved


class Flights:
    """The flights of one engine, by key."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._flights: dict[str, Flight] = {}
        self._tasks: dict[Flight, asyncio.Task[None]] = {}

    def __len__(self) -> int:
        return len(self._tasks)

    def __contains__(self, key: str) -> bool:
        return key in self._flights

    def follow(self, key: str, request: Request) -> "Follower":
        """Follows the flight of `key`, from its first delta on."""
        return Follower(self, key, self._flights[key], request)

    def start(self, key: str, request: Request, keep: Keep) -> "Follower":
        """Submits a request and follows it; `keep` gets its deltas if it ends by itself.

        What is raised by the submission is raised here. The deadline stays with the follower.
        """
        stream = self._service.submit(replace(request, deadline_s=None))
        flight = self._flights[key] = Flight()
        self._tasks[flight] = asyncio.create_task(self._run(key, flight, stream, keep))
        return Follower(self, key, flight, request)

    def leave(self, key: str, flight: Flight) -> None:
        """A follower has gone; the last one takes the computation along."""
        flight.followers -= 1
        if not flight.followers and not flight.ended:
            self._forget(key, flight)
            self._tasks[flight].cancel()

    async def _run(self, key: str, flight: Flight, stream: AnswerStream, keep: Keep) -> None:
        try:
            with stream:
                async for delta in stream:
                    flight.push(delta)
        except Exception as error:
            flight.push(error)
        else:
            self._forget(key, flight)
            await keep(flight.deltas)
        finally:
            self._forget(key, flight)
            del self._tasks[flight]

    def _forget(self, key: str, flight: Flight) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]


class Follower(AsyncIterator[Delta]):
    """One request's deltas, from a flight. Use it as a context: leaving is told to the flight."""

    def __init__(self, flights: Flights, key: str, flight: Flight, request: Request) -> None:
        self.request = request
        self._flights = flights
        self._key = key
        self._flight = flight
        self._next = 0
        self._gone = False
        self._arrived_s = time.monotonic()
        self._first_s: float | None = None
        flight.followers += 1

    async def __anext__(self) -> Delta:
        if self._gone:
            raise StopAsyncIteration
        if not await self._has_next():
            return self._timed_out()
        if self._next == len(self._flight.deltas):
            assert self._flight.error is not None
            self.cancel()
            raise self._flight.error
        delta = self._flight.deltas[self._next]
        self._next += 1
        if self._first_s is None:
            self._first_s = time.monotonic()
        return self._own(delta)

    async def _has_next(self) -> bool:
        """Waits for something to read; False if the request's deadline has passed before."""
        flight, deadline_s = self._flight, self.request.deadline_s
        while self._next == len(flight.deltas) and flight.error is None:
            if deadline_s is None:
                await flight.moved()
                continue
            try:
                async with asyncio.timeout_at(deadline_s):
                    await flight.moved()
            except TimeoutError:
                return False
        return True

    def cancel(self) -> None:
        """Leaves the flight, if it has not been left."""
        if not self._gone:
            self._gone = True
            self._flights.leave(self._key, self._flight)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.cancel()

    def _own(self, delta: Delta) -> Delta:
        """A delta of the flight as this request's."""
        if delta.finish is not None:
            self.cancel()
            return replace(delta, request_id=self.request.id, timings=self._timings(delta.timings))
        if delta.request_id != self.request.id:
            return replace(delta, request_id=self.request.id)
        return delta

    def _timings(self, computed: Timings | None) -> Timings:
        """When things happened to this request, which may have come after the first token."""
        now, tokens = time.monotonic(), sum(len(d.ids) for d in self._flight.deltas[: self._next])
        first = now if self._first_s is None else self._first_s
        started = first if computed is None else max(self._arrived_s, computed.started_s)
        length = len(self.request.prompt_ids)
        cached = 0 if computed is None else computed.cached_tokens
        return Timings(self._arrived_s, started, max(started, first), now, length, tokens, cached)

    def _timed_out(self) -> Delta:
        self.cancel()
        timings = self._timings(None)
        return Delta(self.request.id, (), "", finish="timeout", timings=timings)

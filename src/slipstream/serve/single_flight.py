"""Equal requests under way at once are computed once: the first starts a flight, others follow it.

    engine ──▶ flight: deltas so far [a b c d …]
                  ▲       ▲           ▲
              late joiner (a)    follower (c)   each reads from the first delta on, at its own pace

A flight goes on while anybody follows it, whoever began it; errors reach all. It can be joined
until its answer is kept, so that none falls between the flight and the cache. Each follower has
its own id, deadline and timings. Used by `answer_sources` within the event loop.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, Self

from slipstream.engine.answer import Delta, Timings
from slipstream.engine.answer_stream import AnswerStream, Letter
from slipstream.engine.request import Request
from slipstream.engine.service import Service

Keep = Callable[[Sequence[Delta]], Coroutine[Any, Any, None]]


class Waiter(NamedTuple):
    """Somebody who waits for a flight to move, or patiently for its end."""

    moved: asyncio.Future[None]
    patient: bool


class Flight:
    """One computation: what it has said so far, how it ended, how many follow it."""

    def __init__(self) -> None:
        self.deltas: list[Delta] = []
        self.error: Exception | None = None
        self.followers = 0
        self._waiting: list[Waiter] = []

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self.error is not None or bool(self.deltas and self.deltas[-1].finish)

    def push(self, news: Delta | Exception) -> None:
        """Adds a delta, or the error that ends the flight, and wakes those who wait for it."""
        if isinstance(news, Exception):
            self.error = news
        else:
            self.deltas.append(news)
        if not self._waiting:
            return
        ended = self.ended
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            if one.patient and not ended:
                self._waiting.append(one)
            elif not one.moved.done():  # cancelled, with its follower
                one.moved.set_result(None)

    async def moved(self, *, patient: bool = False) -> None:
        """Waits for the next `push`; patiently: for the last one."""
        waiter = Waiter(asyncio.get_running_loop().create_future(), patient)
        self._waiting.append(waiter)
        try:
            await waiter.moved
        except asyncio.CancelledError:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
            raise


class Watch:
    """Whether a flight of one key has landed in the cache while somebody looked there."""

    def __init__(self) -> None:
        self.landed = False


class Flights:
    """The flights of one engine, by key."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._flights: dict[str, Flight] = {}
        self._streams: dict[Flight, AnswerStream] = {}  # of flights under way
        self._keeping: set[asyncio.Task[None]] = set()
        self._watches: dict[str, list[Watch]] = {}

    def __len__(self) -> int:
        return len(self._streams) + len(self._keeping)

    def __contains__(self, key: str) -> bool:
        return key in self._flights

    def computing(self, key: str) -> bool:
        """Whether the flight of `key` has not ended yet."""
        return key in self._flights and not self._flights[key].ended

    @property
    def under_way(self) -> list[Flight]:
        """What is computed now."""
        return list(self._streams)

    def follow(self, key: str, request: Request, *, patient: bool = False) -> "Follower":
        """Follows the flight of `key`, from its first delta on."""
        flight = self._flights[key]
        if not patient and flight in self._streams:
            self._streams[flight].patient = False
        return Follower(self, key, flight, request, patient=patient)

    def start(self, key: str, request: Request, keep: Keep, *, patient: bool = False) -> "Follower":
        """Submits a request and follows it; `keep` gets its deltas if it ends by itself.

        What is raised by the submission is raised here. The deadline stays with the follower.
        """
        stream = self._service.submit(replace(request, deadline_s=None), patient=patient)
        flight = self._flights[key] = Flight()
        self._streams[flight] = stream
        stream.hear = partial(self._hear, key, flight, keep)
        return Follower(self, key, flight, request, patient=patient)

    @contextmanager
    def watch(self, key: str) -> Iterator[Watch]:
        """For the time of a look into the cache: one that missed what landed must look again."""
        watch = Watch()
        self._watches.setdefault(key, []).append(watch)
        try:
            yield watch
        finally:
            self._watches[key].remove(watch)
            if not self._watches[key]:
                del self._watches[key]

    def leave(self, key: str, flight: Flight) -> None:
        """A follower has gone; the last one takes the computation along."""
        flight.followers -= 1
        if not flight.followers and not flight.ended:
            self._forget(key, flight)
            self._streams.pop(flight).cancel()

    def _hear(self, key: str, flight: Flight, keep: Keep, letter: Letter) -> None:
        ended = isinstance(letter, Exception) or letter.finish is not None
        if ended:
            del self._streams[flight]
        flight.push(letter)
        if flight.error is not None:
            self._forget(key, flight)
        elif ended:
            keeping = asyncio.create_task(self._land(key, flight, keep))
            self._keeping.add(keeping)
            keeping.add_done_callback(self._keeping.discard)

    async def _land(self, key: str, flight: Flight, keep: Keep) -> None:
        try:
            await keep(flight.deltas)
        finally:
            self._forget(key, flight)
            for watch in self._watches.get(key, ()):
                watch.landed = True

    def _forget(self, key: str, flight: Flight) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]


class Follower:
    """One request's deltas, from a flight. Use it as a context: leaving is told to the flight.

    patient  `more` waits until the answer is complete
    """

    def __init__(
        self, flights: Flights, key: str, flight: Flight, request: Request, *, patient: bool
    ) -> None:
        self.request = request
        self.patient = patient
        self._flights = flights
        self._key = key
        self._flight = flight
        self._next = 0
        self._gone = False
        self._arrived_s = time.monotonic()
        self._first_s: float | None = None
        flight.followers += 1

    async def more(self) -> Sequence[Delta]:
        """What has come since the last call, waiting for something; nothing after the end."""
        if self._gone:
            return ()
        if not await self._has_next():
            return (self._timed_out(),)
        news = self._flight.deltas[self._next :]
        if not news:
            assert self._flight.error is not None
            self.cancel()
            raise self._flight.error
        self._next += len(news)
        if self._first_s is None:
            self._first_s = time.monotonic()
        if news[0].request_id == self.request.id and news[-1].finish is None:
            return news
        return [self._own(delta) for delta in news]

    async def _has_next(self) -> bool:
        """Waits for something to read; False if the request's deadline has passed before."""
        deadline_s = self.request.deadline_s
        if not self._must_wait():
            return True
        try:
            async with asyncio.timeout_at(deadline_s):
                while self._must_wait():
                    await self._flight.moved(patient=self.patient)
        except TimeoutError:
            return False
        return True

    def _must_wait(self) -> bool:
        flight = self._flight
        return (
            not flight.ended
            if self.patient
            else self._next == len(flight.deltas) and not flight.error
        )

    def cancel(self) -> None:
        """Leaves the flight, if it has not been left."""
        if not self._gone:
            self._gone = True
            self._flights.leave(self._key, self._flight)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
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
        if self.patient and computed is not None:  # read late, but it was there
            first = max(self._arrived_s, computed.first_token_s)
        started = first if computed is None else max(self._arrived_s, computed.started_s)
        length = len(self.request.prompt_ids)
        cached = 0 if computed is None else computed.cached_tokens
        return Timings(self._arrived_s, started, max(started, first), now, length, tokens, cached)

    def _timed_out(self) -> Delta:
        self.cancel()
        timings = self._timings(None)
        return Delta(self.request.id, (), "", finish="timeout", timings=timings)

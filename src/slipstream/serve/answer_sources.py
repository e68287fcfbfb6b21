"""Where each answer comes from: the response cache, an equal request under way, or the engine.

`look_up` asks the cache, `open_source` makes the stream; `answering` is the caller of both. Only
deterministic requests are kept and shared: another draw of an unseeded one is another answer.
"""

import asyncio
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from types import TracebackType
from typing import Protocol, Self

from slipstream.engine.answer import Delta, Timings
from slipstream.engine.request import Request
from slipstream.serve.response_cache import ResponseCache
from slipstream.serve.response_cache_use import CacheUse, Outcome
from slipstream.serve.served import Served

YIELD_EVERY = 64  # deltas of a replay between turns for others


class Source(Protocol):
    """One answer's deltas. As a context: leaving it early cancels what has not ended."""

    async def more(self) -> Sequence[Delta]:
        """What has come since the last call, waiting for something; nothing after the end."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None: ...


@dataclass(frozen=True)
class Looked:
    """A request with what is known about its answer.

    key     under which it may be kept; None: it is a draw of its own
    flight  under which it may be shared while it is computed: equal and as urgent
    kept    its deltas, if the cache has them
    """

    request: Request
    key: str | None
    kept: Sequence[Delta] | None
    arrived_s: float

    @property
    def flight(self) -> str:
        """Whom it may share a computation with: requests that are equal and as urgent."""
        return f"{self.key} {self.request.priority}"


async def look_up(served: Served, requests: Sequence[Request], use: CacheUse) -> list[Looked]:
    """Asks the cache about each request, all at once; again about what has landed meanwhile."""
    arrived_s = time.monotonic()
    looked = [
        Looked(request, served.key_of(request) if use.share else None, None, arrived_s)
        for request in requests
    ]
    if served.cache is None or not use.read:
        return looked
    with ExitStack() as stack:
        watches = [stack.enter_context(served.flights.watch(one.flight)) for one in looked]
        again = list(range(len(looked)))
        while again:
            for watch in watches:
                watch.landed = False
            found = await asyncio.gather(*(_look(served, looked[i]) for i in again))
            for i, one in zip(again, found, strict=True):
                looked[i] = one
            again = [i for i in again if looked[i].kept is None and watches[i].landed]
    return looked


async def _look(served: Served, one: Looked) -> Looked:
    if one.key is None or served.cache is None or served.flights.computing(one.flight):
        return one
    return replace(one, kept=await served.cache.find(one.key))


def to_compute(served: Served, looked: Sequence[Looked], use: CacheUse) -> list[Request]:
    """The requests that the engine must answer now, equal ones once."""
    computed: dict[str | int, Request] = {}
    for one in looked:
        if one.key is None:
            computed[one.request.id] = one.request
        elif one.kept is None and not (use.read and one.flight in served.flights):
            computed.setdefault(one.flight, one.request)
    return list(computed.values())


def open_source(
    served: Served, one: Looked, use: CacheUse, computed: Sequence[Request], *, patient: bool
) -> Source:
    """The stream of one answer; `computed` is what `to_compute` has said of the whole reply.

    `patient`: its `more` waits until the answer is complete, unless that is kept already.
    """
    request = _led(one.request, computed)
    if one.key is None:
        _tell(served, use, "bypass")
        return served.service.submit(request, patient=patient)
    if one.kept is not None:
        _tell(served, use, "hit")
        return Replay(request, one.kept, one.arrived_s)
    if all(request.id != other.id for other in computed):
        _tell(served, use, "shared")
        return served.flights.follow(one.flight, request, patient=patient)
    _tell(served, use, "miss")
    keep = partial(_keep, served.cache, one.key)
    return served.flights.start(one.flight, request, keep, patient=patient)


def _tell(served: Served, use: CacheUse, outcome: Outcome) -> None:
    use.tell(outcome)
    served.metrics.count_cache(outcome)


async def _keep(cache: ResponseCache | None, key: str, deltas: Sequence[Delta]) -> None:
    if cache is not None:
        await cache.keep(key, deltas)


def _led(request: Request, computed: Sequence[Request]) -> Request:
    """`request` without its leader, if the engine does not get that one together with it."""
    if request.leader is None or any(request.leader == other.id for other in computed):
        return request
    return replace(request, leader=None)


class Replay:
    """A kept answer as one request's: the same deltas, its own id and timings."""

    def __init__(self, request: Request, kept: Sequence[Delta], arrived_s: float) -> None:
        self.request = request
        self._kept = kept
        self._next = 0
        self._arrived_s = arrived_s
        self._started_s = time.monotonic()

    async def more(self) -> Sequence[Delta]:
        """The next so many; others have their turn in between."""
        if self._next:
            await asyncio.sleep(0)
        some = self._kept[self._next : self._next + YIELD_EVERY]
        self._next += len(some)
        return [self._own(delta) for delta in some]

    def _own(self, delta: Delta) -> Delta:
        timings = None if delta.finish is None else self._timings()
        return replace(delta, request_id=self.request.id, timings=timings)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._next = len(self._kept)

    def _timings(self) -> Timings:
        """Nothing of the prompt was computed, and the first token was there at once."""
        length = len(self.request.prompt_ids)
        tokens = sum(len(delta.ids) for delta in self._kept)
        started = self._started_s
        return Timings(self._arrived_s, started, started, time.monotonic(), length, tokens, length)

"""Answers to deterministic requests, kept so that exact repeats cost nothing.

What is kept is the list of an answer's deltas, so a repeat is the same answer in any API shape,
streamed or whole. A store that fails costs the benefit, never an answer.
"""

import logging
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple, Protocol

from pydantic import ConfigDict, TypeAdapter

from slipstream.engine.answer import Delta
from slipstream.engine.request import FinishReason
from slipstream.engine.sampler import TokenLogprob

log = logging.getLogger("slipstream.cache")

FINISHED = frozenset({"stop", "length"})  # other answers were cut short: asked again, they go on
ANSWER_BYTES_MAX = 64 * 2**20  # of one answer, unpacked: what a damaged entry may claim


class Store(Protocol):
    """Bytes by key, for as long as there is room."""

    async def get(self, key: str) -> bytes | None:
        """The value, if there is one that has not expired."""
        ...

    async def put(self, key: str, value: bytes) -> None:
        """Keeps a value, at the cost of those least recently used."""
        ...

    async def close(self) -> None:
        """Finishes what was begun."""
        ...

    @property
    def size_bytes(self) -> int | None:
        """What it takes now; None where that is not for us to say."""
        ...


@dataclass
class CacheStats:
    """Counts since the start."""

    hits: int = 0
    misses: int = 0
    kept: int = 0
    failures: int = 0


class ResponseCache:
    """Deltas by key, over a store of bytes."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._writing: dict[str, Sequence[Delta]] = {}
        self.stats = CacheStats()

    @property
    def size_bytes(self) -> int | None:
        """What the store takes; None if it does not know."""
        return self._store.size_bytes

    async def find(self, key: str) -> Sequence[Delta] | None:
        """The deltas kept under `key`."""
        found: Sequence[Delta] | None = self._writing.get(key)
        try:
            if found is None and (value := await self._store.get(key)) is not None:
                found = unpack(value)
        except Exception as error:
            self._failed("read", error)
        self.stats.hits += found is not None
        self.stats.misses += found is None
        return found

    async def keep(self, key: str, deltas: Sequence[Delta]) -> None:
        """Keeps a whole answer; one that was cancelled or timed out is passed over."""
        if deltas[-1].finish not in FINISHED:
            return
        self._writing[key] = deltas
        try:
            await self._store.put(key, pack(deltas))
            self.stats.kept += 1
        except Exception as error:
            self._failed("write", error)
        finally:
            self._writing.pop(key, None)

    async def close(self) -> None:
        """Finishes writing."""
        try:
            await self._store.close()
        except Exception as error:
            self._failed("close", error)

    def _failed(self, what: str, error: Exception) -> None:
        self.stats.failures += 1
        if self.stats.failures & (self.stats.failures - 1) == 0:  # the 1st, 2nd, 4th, 8th …
            log.warning(
                "cannot %s the response cache (%d failures so far), so answers are computed: %s",
                what,
                self.stats.failures,
                error,
            )


class Part(NamedTuple):
    """What is kept of a delta: nothing that belongs to one request alone."""

    ids: tuple[int, ...]
    text: str
    logprobs: tuple[TokenLogprob, ...]
    finish: FinishReason | None
    stopped_by: str | int | None
    prompt_logprobs: tuple[TokenLogprob, ...] | None


def pack(deltas: Sequence[Delta]) -> bytes:
    """Deltas as bytes, without their request's id and timings."""
    parts = [Part(*(getattr(delta, name) for name in Part._fields)) for delta in deltas]
    return zlib.compress(_parts().dump_json(parts), level=1)


def unpack(value: bytes) -> list[Delta]:
    """The deltas that `pack` was given, of request 0. ValueError if this is no whole answer."""
    unpacking = zlib.decompressobj()
    try:
        text = unpacking.decompress(value, ANSWER_BYTES_MAX)
    except zlib.error as error:
        raise ValueError(f"a kept answer is damaged: {error}") from error
    if not unpacking.eof:
        raise ValueError("a kept answer is damaged: it has no end")
    parts = _parts().validate_json(text)
    if not parts or any((part.finish in FINISHED) != (part is parts[-1]) for part in parts):
        raise ValueError("a kept answer is damaged: its parts do not end as answers do")
    return [Delta(request_id=0, **part._asdict()) for part in parts]


@cache
def _parts() -> TypeAdapter[list[Part]]:
    return TypeAdapter(list[Part], config=ConfigDict(ser_json_inf_nan="constants"))

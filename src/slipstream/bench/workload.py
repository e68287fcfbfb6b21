"""What is run while the clock runs: token ids and the batches that feed them, made beforehand.

A prompt is processed in one go (`prefill_batch`); decoding feeds one token per stream and step
(`decode_batches`). The ids are the same for every contestant; random ones do, as the time of a step
does not depend on them.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slipstream.backends.batch import PAGE_SIZE, Batch


@dataclass(frozen=True)
class Workload:
    """Prefill `prompt_tokens` at once; decode `decode_tokens` in each of `streams` streams.

    Decoding begins behind a context of `depth` tokens. A count of zero leaves that part out.
    """

    prompt_tokens: int = 512
    decode_tokens: int = 64
    depth: int = 8
    streams: int = 1
    seed: int = 0
    given: tuple[int, ...] = ()  # ids to use instead of random ones, repeated as needed

    def __post_init__(self) -> None:
        if min(self.prompt_tokens, self.decode_tokens) < 0 or min(self.depth, self.streams) < 1:
            raise ValueError("tokens must not be negative; depth and streams are at least 1")

    @property
    def positions(self) -> int:
        """The longest sequence that it makes."""
        return max(self.prompt_tokens, self.depth + self.decode_tokens)

    @property
    def pages_each(self) -> int:
        """KV pages that one sequence may need."""
        return -(-self.positions // PAGE_SIZE)

    @property
    def page_count(self) -> int:
        """KV pages for all streams."""
        return self.pages_each * self.streams

    def ids(self, vocabulary: int) -> NDArray[np.int32]:
        """int32 [streams, positions]: drawn from the whole vocabulary, or the given ones."""
        if self.given:
            return np.tile(np.resize(self.given, self.positions), (self.streams, 1)).astype(
                np.int32
            )
        draw = np.random.default_rng(self.seed)
        return draw.integers(vocabulary, size=(self.streams, self.positions), dtype=np.int32)


def prefill_batch(ids: NDArray[np.int32]) -> Batch:
    """All rows of all sequences [S, length] at once into empty pages; logits of each last row."""
    streams, length = ids.shape
    ends = np.arange(1, streams + 1) * length
    return Batch(
        ids=ids.reshape(-1),
        row_starts=np.append(0, ends).astype(np.int32),
        lengths=np.zeros(streams, np.int32),
        pages=_pages(streams, -(-length // PAGE_SIZE)),
        logit_rows=(ends - 1).astype(np.int32),
    )


def decode_batches(ids: NDArray[np.int32], depth: int, steps: int) -> Iterator[Batch]:
    """One row per sequence and step; ids [S, depth + steps], of which `depth` are in the cache.

    The pages must be those that `prefill_batch` gave to the same sequences, so both number a
    sequence's pages by its place: page p of sequence s of S is p · S + s.
    """
    streams = len(ids)
    pages = _pages(streams, -(-(depth + steps) // PAGE_SIZE))
    rows = np.arange(streams + 1, dtype=np.int32)
    for position in range(depth, depth + steps):
        yield Batch(
            ids=np.ascontiguousarray(ids[:, position]),
            row_starts=rows,
            lengths=np.full(streams, position, np.int32),
            pages=pages,
            logit_rows=rows[:-1],
        )


def _pages(streams: int, each: int) -> NDArray[np.int32]:
    return np.arange(streams * each, dtype=np.int32).reshape(each, streams).T.copy()

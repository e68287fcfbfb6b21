"""What one step of a program reads: tokens of several sequences, and where their KV pages are.

Built by the engine (or by hand in evaluation and tests), checked here at the border, and then
trusted by every backend. Legend: R rows (tokens) of the batch, S sequences in it, P pages a
sequence can hold, L rows whose logits are wanted.

    rows      | seq 0: prompt chunk, 5 rows | seq 1: decode, 1 row | seq 2: decode, 1 row |
    row_starts  0                             5                      6                      7
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from slipstream.checkpoint.peft import Adapter
from slipstream.graph.graph import Graph

PAGE_SIZE = 64  # positions in one KV page; also the tile of keys that attention merges at a time


@dataclass(frozen=True)
class Batch:
    """One step's work.

    ids         int32 [R]     token ids
    row_starts  int32 [S + 1] sequence s owns rows row_starts[s] … row_starts[s + 1] - 1
    lengths     int32 [S]     positions already in the cache before this step: the first row of
                              sequence s is at position lengths[s]
    pages       int32 [K, S, P]  for each kind of attention (`Graph.windows`) page numbers of each
                              sequence in order; unused entries are -1, and so may be those that no
                              window of the kind reaches any more. [S, P]: the same for every kind
    logit_rows  int32 [L]     rows whose logits are wanted, ascending; may be empty
    adapters    int32 [S]     the program's adapter slot of each sequence, -1 for none; None: no
                              sequence has one
    """

    ids: NDArray[np.int32]
    row_starts: NDArray[np.int32]
    lengths: NDArray[np.int32]
    pages: NDArray[np.int32]
    logit_rows: NDArray[np.int32]
    adapters: NDArray[np.int32] | None = None

    def positions(self) -> NDArray[np.int32]:
        """int32 [R]: the position of each row in its own sequence."""
        counts = np.diff(self.row_starts)
        offsets = np.arange(len(self.ids), dtype=np.int32) - np.repeat(self.row_starts[:-1], counts)
        return (np.repeat(self.lengths, counts) + offsets).astype(np.int32)

    def pages_of(self, kind: int) -> NDArray[np.int32]:
        """int32 [S, P]: the page table of one kind of attention."""
        return self.pages if self.pages.ndim == 2 else self.pages[kind]

    def check(self, graph: Graph, page_count: int | Sequence[int]) -> None:
        """ValueError unless every id, page and row is in range and the pages hold the positions."""
        counts = np.diff(self.row_starts)
        ends = self.lengths + counts
        if self.row_starts[0] != 0 or self.row_starts[-1] != len(self.ids) or (counts < 1).any():
            raise ValueError("row_starts must rise from 0 to the number of rows")
        if len(self.ids) and not (self.ids.min() >= 0 and self.ids.max() < graph.vocabulary):
            raise ValueError(f"token ids must be in 0…{graph.vocabulary - 1}")
        if (self.lengths < 0).any():
            raise ValueError("lengths must not be negative")
        windows = graph.windows
        if self.pages.ndim == 3 and len(self.pages) != len(windows):
            raise ValueError("pages must have a table for each kind of attention, or one for all")
        page_counts, needed = page_counts_of(graph, page_count), -(-ends // PAGE_SIZE)
        for kind, window in enumerate(windows):
            self._check_pages(self.pages_of(kind), window, page_counts[kind], needed)
        rows = self.logit_rows
        if len(rows) and (rows[0] < 0 or rows[-1] >= len(self.ids) or (np.diff(rows) <= 0).any()):
            raise ValueError("logit_rows must rise and lie within the batch")
        if self.adapters is not None and self.adapters.shape != self.lengths.shape:
            raise ValueError("adapters must have one slot (or -1) for each sequence")

    def _check_pages(
        self,
        pages: NDArray[np.int32],
        window: int | None,
        page_count: int,
        needed: NDArray[np.int32],
    ) -> None:
        if (needed > pages.shape[1]).any():
            raise ValueError("a sequence has fewer pages than its positions need")
        seen = 0 if window is None else np.maximum(self.lengths - window + 1, 0) // PAGE_SIZE
        columns = np.arange(pages.shape[1])[None, :]
        used = (columns < needed[:, None]) & (columns >= np.reshape(seen, (-1, 1)))
        if used.any() and not (pages[used].min() >= 0 and pages[used].max() < page_count):
            raise ValueError(f"page numbers must be in 0…{page_count - 1}")


def page_counts_of(graph: Graph, page_count: int | Sequence[int]) -> tuple[int, ...]:
    """Pages of each kind of attention, from one number for all or one for each (ValueError)."""
    kinds = len(graph.windows)
    counts = (page_count,) * kinds if isinstance(page_count, int) else tuple(page_count)
    if len(counts) != kinds:
        raise ValueError(f"page_count must be one number, or {kinds}: one for each of `windows`")
    return counts


def single(ids: NDArray[np.int32], all_logits: bool = False) -> Batch:
    """A batch of one new sequence on pages 0, 1, 2 …: for tests and evaluation."""
    count = len(ids)
    rows = np.arange(count) if all_logits else np.array([count - 1])
    return Batch(
        ids=np.asarray(ids, np.int32),
        row_starts=np.array([0, count], np.int32),
        lengths=np.zeros(1, np.int32),
        pages=np.arange(-(-count // PAGE_SIZE), dtype=np.int32)[None, :],
        logit_rows=rows.astype(np.int32),
    )


class KV(Protocol):
    """The storage of keys and values, for each kind of attention apart. Opaque to the engine.

    `page_count`: pages that every kind has.
    """

    page_count: int
    size_bytes: int

    def copy_page(self, source: int, target: int, kind: int | None = None) -> None:
        """Makes `target` hold what `source` holds, bit by bit, in every layer of the kind; None:
        of every kind.
        """
        ...


class Program(Protocol):
    """A graph made runnable by a backend."""

    graph: Graph

    def new_kv(self, page_count: int | Sequence[int]) -> KV:
        """Storage for so many pages of PAGE_SIZE positions: in every kind of attention, or a number
        for each of `graph.windows`.
        """
        ...

    def step(self, batch: Batch, kv: KV) -> NDArray[np.float32]:
        """Runs the batch, writes its keys and values into `kv`; returns logits, float32 [L, V]."""
        ...

    def capture(
        self, batch: Batch, kv: KV, weights: tuple[str, ...]
    ) -> dict[str, NDArray[np.float32]]:
        """Runs the batch; returns each weight's float32 [R, in] input of its linear, unrounded.

        Calibration calls this; inputs to the head have only the L selected rows.
        """
        ...

    @property
    def adapter_bytes(self) -> int:
        """What the loaded adapters occupy."""
        ...

    def load_adapter(self, slot: int, adapter: Adapter) -> None:
        """Puts an adapter into an empty slot, for batches to name.

        A row of a sequence that names it gets, at each linear that the adapter changes,
        y + scale · B (A x) in float32, x being the linear's unrounded input. Other rows keep their
        bits. UnsupportedError or AdapterError when it does not fit the graph, ValueError when the
        slot is taken.
        """
        ...

    def unload_adapter(self, slot: int) -> None:
        """Empties a slot; ValueError if it is empty."""
        ...

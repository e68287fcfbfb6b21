"""A program of known logits, and a tokenizer of single bytes: the smallest world for an engine.

The program keeps the ids themselves as its "keys and values", page by page, and computes logits
from what it reads back. So a page that is lost, shared by mistake or overwritten changes tokens.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slipstream.backends.batch import PAGE_SIZE, Batch, page_counts_of
from slipstream.engine.engine import Engine
from slipstream.engine.options import Settings
from slipstream.engine.pages import pages_for
from slipstream.engine.scheduler import Batching, Limits
from slipstream.graph import ops
from slipstream.graph.graph import Graph, Node

Answerer = Callable[[list[int]], NDArray[np.float32]]  # all ids so far → logits [V]


@dataclass
class FakeKV:
    page_counts: Sequence[int]
    page_count: int = 0
    size_bytes: int = 0
    ids: list[NDArray[np.int64]] = field(init=False)  # of each kind of attention

    def __post_init__(self) -> None:
        self.page_count = min(self.page_counts)
        self.ids = [np.full((count, PAGE_SIZE), -1) for count in self.page_counts]

    def copy_page(self, source: int, target: int, kind: int | None = None) -> None:
        for ids in self.ids if kind is None else [self.ids[kind]]:
            ids[target] = ids[source]


@dataclass
class FakeProgram:
    """Logits are `answer(all ids up to the row)`, or those that the widest window sees."""

    vocabulary: int = 16
    answer: Answerer | None = None
    context: int = 4096
    windows: tuple[int | None, ...] = (None,)  # of each kind: ids further back are not read
    steps: int = 0
    rows: list[int] = field(default_factory=list)  # of each step

    @property
    def graph(self) -> Graph:
        nodes = [
            Node(f"attention.{i}", ops.Attention(i, 1, 1, 1, 1.0, window), ("q",), (f"out{i}",))
            for i, window in enumerate(self.windows)
        ]
        return Graph("fake", tuple(nodes), 1, self.vocabulary, self.context)

    def new_kv(self, page_count: int | Sequence[int]) -> FakeKV:
        return FakeKV(page_counts_of(self.graph, page_count))

    def step(self, batch: Batch, kv: FakeKV) -> NDArray[np.float32]:
        batch.check(self.graph, kv.page_counts)
        self.steps += 1
        self.rows.append(len(batch.ids))
        for kind in range(len(self.windows)):
            self._check_writes(batch, batch.pages_of(kind))
        wanted = set(batch.logit_rows.tolist())
        logits = []
        for sequence in range(len(batch.lengths)):
            tables = [batch.pages_of(kind)[sequence] for kind in range(len(self.windows))]
            start, end = batch.row_starts[sequence : sequence + 2]
            for row in range(start, end):
                position = int(batch.lengths[sequence] + row - start)
                for ids, pages in zip(kv.ids, tables, strict=True):
                    ids[pages[position // PAGE_SIZE], position % PAGE_SIZE] = batch.ids[row]
                if row in wanted:
                    known = self._seen(kv, tables, position)
                    logits.append((self.answer or self.hashed)(known))
        return np.array(logits, np.float32).reshape(len(logits), self.vocabulary)

    def _seen(self, kv: FakeKV, tables: list[NDArray[np.int32]], position: int) -> list[int]:
        seen: list[int] = []
        for window, kept, pages in zip(self.windows, kv.ids, tables, strict=True):
            first = 0 if window is None else max(0, position - window + 1)
            start = first // PAGE_SIZE
            used = pages[start : pages_for(position + 1)]
            assert (used >= 0).all(), "a page that is seen is gone"
            ids = kept[used].reshape(-1)[first - start * PAGE_SIZE :][: position + 1 - first]
            most = min(len(ids), len(seen))
            assert ids[len(ids) - most :].tolist() == seen[len(seen) - most :], "kinds disagree"
            seen = max(seen, ids.tolist(), key=len)
        return seen

    def _check_writes(self, batch: Batch, table: NDArray[np.int32]) -> None:
        """No two sequences write to one page, and nobody reads what another one writes."""
        ends = batch.lengths + np.diff(batch.row_starts)
        writers: dict[int, int] = {}
        for sequence, (start, end) in enumerate(zip(batch.lengths, ends, strict=True)):
            written = table[sequence][start // PAGE_SIZE : pages_for(int(end))].tolist()
            for page in written:
                assert writers.setdefault(page, sequence) == sequence, "two write to one page"
        for sequence, pages in enumerate(table.tolist()):
            for page in (page for page in pages if page >= 0):
                assert writers.get(page, sequence) == sequence, "reads what another one writes"

    def capture(self, batch: Batch, kv: FakeKV, weights: tuple[str, ...]) -> dict[str, Any]:
        raise NotImplementedError

    def hashed(self, ids: list[int]) -> NDArray[np.float32]:
        """Logits that depend on every id and its position."""
        mixed = (hash(tuple(ids)) & 0xFFFFFFFF) * np.arange(1, self.vocabulary + 1) * 2654435761
        return (mixed % 65_537 / 12_000).astype(np.float32)


class ByteChat:
    def render(self, messages: Sequence[Any], *, add_generation_prompt: bool = True) -> str:
        turns = "".join(f"<{m['role']}>{m['content']}\n" for m in messages)
        return turns + ("<assistant>" if add_generation_prompt else "")


@dataclass
class ByteTokenizer:
    """Ids 0-255 are bytes, 256 ends a turn."""

    eos_ids: frozenset[int] = frozenset({256})
    chat: ByteChat | None = field(default_factory=ByteChat)
    vocabulary_size: int = 257
    special_ids: frozenset[int] = frozenset({256})

    def token_bytes(self, token_id: int) -> bytes:
        return bytes([token_id]) if token_id < 256 else b"<end>"

    def encode(self, text: str, special: bool = True) -> list[int]:
        return list(text.encode())

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        return bytes(i for i in ids if i < 256).decode(errors="replace")


def parrot(script: str | bytes, vocabulary: int = 257, end: int = 256) -> Answerer:
    """Answers every prompt that ends in ``>`` (or any other, by its length) with `script`, then ends."""
    text = script.encode() if isinstance(script, str) else script

    def answer(ids: list[int]) -> NDArray[np.float32]:
        said = (
            len(ids) - 1 - max((i for i, token in enumerate(ids) if token == ord(">")), default=0)
        )
        logits = np.zeros(vocabulary, np.float32)
        logits[text[said] if said < len(text) else end] = 40
        return logits

    return answer


def fake_engine(
    program: FakeProgram | None = None,
    *,
    max_batch: int = 8,
    token_budget: int = 32,
    context: int = 1024,
    page_count: int | None = None,
    page_counts: Sequence[int] | None = None,
    batching: Batching = "continuous",
    max_wait_s: float = 0.0,
    prefix_cache: bool = True,
    **more: Any,
) -> Engine:
    program = program or FakeProgram()
    every = [page_count or pages_for(context) * max_batch] * len(program.windows)
    settings = Settings(
        backend="reference",
        limits=Limits(max_batch, token_budget, batching, max_wait_s, program.windows),
        context=context,
        page_counts=tuple(page_counts or every),
        kv_dtype="float32",
        activations="auto",
        threads=1,
        prefix_cache=prefix_cache,
    )
    tokenizer = more.pop("tokenizer", None) or ByteTokenizer()
    return Engine(program, tokenizer, settings, name="fake", **more)

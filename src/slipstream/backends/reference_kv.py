"""Keys and values in pages, as plain arrays, and attention of a batch over them.

Called by `backends.reference` for each attention of the graph; promises that a sequence sees its
own positions only, wherever its pages lie.
"""

from dataclasses import dataclass, field

import numpy as np
from array_api_compat import array_namespace
from numpy.typing import NDArray

from slipstream.backends.batch import PAGE_SIZE, Batch
from slipstream.backends.reference_ops import Array, attend
from slipstream.formats.kv import KVType, key_read_back, kv_position_bytes, value_read_back
from slipstream.graph import ops
from slipstream.graph.graph import Graph


@dataclass
class ReferenceKV:
    """`keys[layer]` and `values[layer]`: [pages of its kind, PAGE_SIZE, kv_heads, head_dim].

    `kinds` says of which kind of attention each layer is: see `Graph.windows`.
    What is written is rounded as pages of `dtype` round it, but held in the dtype of the program.
    """

    page_counts: tuple[int, ...]
    kinds: tuple[int, ...]
    dtype: KVType
    keys: list[Array]
    values: list[Array]
    page_count: int = field(init=False)  # that every kind has
    size_bytes: int = field(init=False)  # what such pages occupy when stored in `dtype`

    def __post_init__(self) -> None:
        self.page_count = min(self.page_counts)
        self.size_bytes = sum(
            pages * PAGE_SIZE * kv_position_bytes(self.dtype, heads, head_dim)
            for pages, _, heads, head_dim in (pool.shape for pool in self.keys)
        )

    def copy_page(self, source: int, target: int, kind: int | None = None) -> None:
        """Makes `target` hold what `source` holds, in every layer of the kind, or of all."""
        for layer, of in enumerate(self.kinds):
            if kind is None or kind == of:
                self.keys[layer][target] = self.keys[layer][source]
                self.values[layer][target] = self.values[layer][source]


def new_kv(graph: Graph, page_counts: tuple[int, ...], dtype: KVType, like: Array) -> ReferenceKV:
    """Empty pages for every attention of the graph, of the dtype and on the device of `like`."""
    xp = array_namespace(like)
    kinds = tuple(graph.windows.index(attention.window) for attention in graph.attentions)

    def pages() -> list[Array]:
        shapes = [
            (page_counts[kind], PAGE_SIZE, attention.kv_heads, attention.head_dim)
            for kind, attention in zip(kinds, graph.attentions, strict=True)
        ]
        return [xp.zeros(shape, dtype=like.dtype, device=like.device) for shape in shapes]

    return ReferenceKV(page_counts, kinds, dtype, pages(), pages())


def attention(
    queries: Array, keys: Array, values: Array, *, batch: Batch, kv: ReferenceKV, op: ops.Attention
) -> Array:
    """Writes the batch's keys and values, then attends one sequence after another: → [R, H·D]."""
    table = batch.pages_of(kv.kinds[op.layer])
    heads = (queries.shape[0], op.kv_heads, op.head_dim)
    xp = array_namespace(queries)
    _write(kv.keys[op.layer], key_read_back(xp.reshape(keys, heads), kv.dtype), batch, table)
    _write(kv.values[op.layer], value_read_back(xp.reshape(values, heads), kv.dtype), batch, table)
    return xp.concat(
        [_attend_sequence(queries, batch, s, kv, op) for s in range(len(batch.lengths))], axis=0
    )


def _attend_sequence(
    queries: Array, batch: Batch, sequence: int, kv: ReferenceKV, op: ops.Attention
) -> Array:
    xp = array_namespace(queries)
    start, end = (int(row) for row in batch.row_starts[sequence : sequence + 2])
    length = int(batch.lengths[sequence])
    table = batch.pages_of(kv.kinds[op.layer])
    first = 0 if op.window is None else max(0, length - op.window + 1)
    first -= first % PAGE_SIZE  # whole pages are read; pages out of every row's sight are not
    after = length + end - start
    pages = xp.asarray(
        table[sequence, first // PAGE_SIZE : -(-after // PAGE_SIZE)].astype(np.int64),
        device=queries.device,
    )
    row_positions = np.arange(length, after)[:, None]
    key_positions = np.arange(first, after)[None, :]
    visible = key_positions <= row_positions
    if op.window is not None:
        visible &= key_positions > row_positions - op.window
    shape = (-1, op.kv_heads, op.head_dim)
    seen_keys, seen_values = (
        xp.reshape(pool[op.layer][pages], shape)[: after - first] for pool in (kv.keys, kv.values)
    )
    visible_here = xp.asarray(visible, device=queries.device)
    return attend(queries[start:end], seen_keys, seen_values, visible_here, op)


def _write(pages: Array, rows: Array, batch: Batch, table: NDArray[np.int32]) -> None:
    xp = array_namespace(rows)
    counts = np.diff(batch.row_starts)
    sequences = np.repeat(np.arange(len(counts)), counts)
    positions = batch.positions()
    page, slot = (
        xp.asarray(numbers.astype(np.int64), device=rows.device)
        for numbers in (table[sequences, positions // PAGE_SIZE], positions % PAGE_SIZE)
    )
    pages[page, slot] = xp.astype(rows, pages.dtype, copy=False)  # bfloat16 when training

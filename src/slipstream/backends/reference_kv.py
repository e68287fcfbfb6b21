"""Keys and values in pages, as plain arrays, and attention of a batch over them.

Called by `backends.reference` for each attention of the graph; promises that a sequence sees its
own positions only, wherever its pages lie.
"""

import math
from dataclasses import dataclass, field
from typing import Literal

import ml_dtypes
import numpy as np
from array_api_compat import array_namespace, is_numpy_array
from numpy.typing import NDArray

from slipstream.backends.batch import PAGE_SIZE, Batch
from slipstream.backends.reference_ops import Array, attend
from slipstream.graph import ops
from slipstream.graph.graph import Graph

KVType = Literal["float32", "bfloat16"]


@dataclass
class ReferenceKV:
    """`keys[layer]` and `values[layer]`: [pages of its kind, PAGE_SIZE, kv_heads, head_dim].

    `kinds` says of which kind of attention each layer is: see `Graph.windows`.
    With dtype "bfloat16" the values are rounded to bfloat16 when written, but held in the dtype
    of the program.
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
        width = 2 if self.dtype == "bfloat16" else 4
        self.size_bytes = sum(width * math.prod(p.shape) for p in self.keys + self.values)

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
    _write(kv.keys[op.layer], keys, batch, table, kv.dtype)
    _write(kv.values[op.layer], values, batch, table, kv.dtype)
    xp = array_namespace(queries)
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


def _write(
    pages: Array, rows: Array, batch: Batch, table: NDArray[np.int32], dtype: KVType
) -> None:
    xp = array_namespace(rows)
    counts = np.diff(batch.row_starts)
    sequences = np.repeat(np.arange(len(counts)), counts)
    positions = batch.positions()
    page, slot = (
        xp.asarray(numbers.astype(np.int64), device=rows.device)
        for numbers in (table[sequences, positions // PAGE_SIZE], positions % PAGE_SIZE)
    )
    if dtype == "bfloat16":
        short = ml_dtypes.bfloat16 if is_numpy_array(rows) else xp.bfloat16
        rows = xp.astype(xp.astype(rows, short), rows.dtype)
    rows = xp.astype(rows, pages.dtype, copy=False)  # of products in bfloat16, when training
    pages[page, slot] = xp.reshape(rows, (rows.shape[0], *pages.shape[2:]))

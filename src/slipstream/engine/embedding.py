"""A prompt as one vector: the decoder's last states, pooled. `Engine.embed` calls it.

The states are the inputs of the head: after the last norm, float32. Each prompt is computed on
pages of its own, apart from the requests under way, several short ones in one step.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from slipstream.backends.batch import KV, Batch, Program
from slipstream.engine.pages import pages_for
from slipstream.errors import RequestError, UnsupportedError
from slipstream.graph import ops

Pooling = Literal["mean", "last"]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class States:
    """What computes the states: a program in steps of at most `rows_most` rows, and the slot of
    an adapter (-1: none).
    """

    program: Program
    rows_most: int
    adapter_slot: int = -1


def embed(states: States, prompts: Sequence[Sequence[int]], pooling: Pooling) -> list[Floats]:
    """float32 [D] of each prompt. Refused: another pooling."""
    if pooling not in ("mean", "last"):
        raise RequestError(f"pooling must be 'mean' or 'last', not {pooling!r}")
    head = head_of(states.program)
    return [
        vector
        for together in _packed(prompts, states.rows_most)
        for vector in _embed_together(states, together, pooling, head)
    ]


def head_of(program: Program) -> str:
    """The weight of the head: the last linear of the graph."""
    linears = [node.op for node in program.graph if isinstance(node.op, ops.Linear)]
    if not linears:
        raise UnsupportedError("this program has no head whose input could be an embedding")
    return linears[-1].weights[0]


def _packed(prompts: Sequence[Sequence[int]], rows_most: int) -> Iterator[list[Sequence[int]]]:
    """Neighbors that fit one step together; a longer prompt is alone."""
    together: list[Sequence[int]] = []
    for prompt in prompts:
        if together and sum(map(len, together)) + len(prompt) > rows_most:
            yield together
            together = []
        together.append(prompt)
    if together:
        yield together


def _embed_together(
    states: States, prompts: Sequence[Sequence[int]], pooling: Pooling, head: str
) -> Iterator[Floats]:
    rows_most = states.rows_most
    kv = states.program.new_kv(sum(pages_for(len(prompt)) for prompt in prompts))
    if len(prompts) > 1 or len(prompts[0]) <= rows_most:
        computed = _computed(states, kv, prompts, [0] * len(prompts), head)
        ends = np.cumsum([len(prompt) for prompt in prompts])
        for rows in np.split(computed, ends[:-1]):
            yield rows[-1] if pooling == "last" else _mean([rows])
        return
    prompt = prompts[0]
    starts = range(0, len(prompt), rows_most)
    parts = [_computed(states, kv, [prompt[s : s + rows_most]], [s], head) for s in starts]
    yield parts[-1][-1] if pooling == "last" else _mean(parts)


def _computed(
    states: States, kv: KV, pieces: Sequence[Sequence[int]], starts: Sequence[int], head: str
) -> Floats:
    """float32 [R, D] of all rows of the pieces, each from its position on, on pages in order."""
    ends = [start + len(piece) for start, piece in zip(starts, pieces, strict=True)]
    counts = [pages_for(end) for end in ends]
    firsts = np.cumsum([0, *counts[:-1]])
    pages = np.full((len(pieces), max(counts)), -1, np.int32)
    for row, (first, count) in enumerate(zip(firsts, counts, strict=True)):
        pages[row, :count] = np.arange(first, first + count)
    ids = np.concatenate([np.asarray(piece, np.int32) for piece in pieces])
    batch = Batch(
        ids=ids,
        row_starts=np.cumsum([0] + [len(piece) for piece in pieces]).astype(np.int32),
        lengths=np.array(starts, np.int32),
        pages=pages,
        logit_rows=np.arange(len(ids), dtype=np.int32),
        adapters=np.full(len(starts), states.adapter_slot, np.int32),
    )
    return states.program.capture(batch, kv, (head,))[head]


def _mean(parts: Sequence[Floats]) -> Floats:
    """The mean of all rows, added one after the other, so that parts change nothing."""
    total = np.zeros(parts[0].shape[1], np.float64)
    for rows in parts:
        for row in rows:
            total += row
    return (total / sum(map(len, parts))).astype(np.float32)

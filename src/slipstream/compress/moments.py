"""What calibration knows of a linear's input: its second moments H = Xᵀ X / rows, and its peaks.

`calibrate` gathers them over a whole model, `stream` block by block; passes read their statistics
from here. Sums grow in the order of the chunks whatever the threads, so equal inputs give equal
bits.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slipstream.backends.batch import PAGE_SIZE, Program, single
from slipstream.compress.blas import one_blas_thread
from slipstream.compress.inputs import InputGroup
from slipstream.machine import thread_count

F32 = NDArray[np.float32]


@dataclass(frozen=True)
class Moments:
    """Over all calibration rows: mean of x xᵀ, float32 [I, I], and the largest |x|, float32 [I]."""

    hessian: F32
    peak: F32
    cross: F32 | None = None  # mean of x̃ xᵀ, x̃ being the input in the model as it was

    @property
    def finite(self) -> bool:
        """False where an input overflowed."""
        return bool(np.isfinite(self.hessian).all())

    @property
    def power(self) -> F32:
        """Mean x² of each input, float32 [I]."""
        return np.ascontiguousarray(np.diagonal(self.hessian))

    def scaled(self, scale: F32) -> "Moments":
        """Those of x / scale."""
        square = np.outer(scale, scale)
        cross = None if self.cross is None else self.cross / square
        return Moments(self.hessian / square, self.peak / scale, cross)


class Sums:
    """Moments of several inputs while they grow, one chunk after the other."""

    def __init__(self, groups: Sequence[InputGroup], chunk_count: int, crossed: bool) -> None:
        self.chunk_count = chunk_count
        self.crosses: dict[str, F32] = {}
        if crossed:
            self.crosses = {g.key: np.zeros((g.width, g.width), np.float32) for g in groups}
        self.hessians = {g.key: np.zeros((g.width, g.width), np.float32) for g in groups}
        self.peaks = {g.key: np.zeros(g.width, np.float32) for g in groups}

    def add(self, key: str, x: F32, original: F32 | None = None) -> None:
        """One chunk's rows, float32 [R, I], and those of the model as it was.

        They are scaled before they are multiplied, so the sum stays in range; the rounding of a few
        dozen additions is far below any damping.
        """
        np.maximum(self.peaks[key], np.abs(x).max(axis=0), out=self.peaks[key])
        share = np.float32((len(x) * self.chunk_count) ** -0.5)
        x = x * share
        if original is not None:
            self.crosses[key] += (original * share).T @ x
        self.hessians[key] += x.T @ x  # of one array with itself: numpy computes only half of it

    def moments(self) -> dict[str, Moments]:
        """By the key of each group."""
        return {
            key: Moments(self.hessians[key], self.peaks[key], self.crosses.get(key))
            for key in self.hessians
        }


def gather(
    programs: Sequence[Program],
    chunks: NDArray[np.int32],
    groups: Sequence[InputGroup],
    *,
    all_logits: bool = False,
    on_tokens: Callable[[int], None] | None = None,
) -> dict[str, Moments]:
    """Runs int32 [C, T] chunks and sums the inputs of the groups' linears, by key.

    programs    the model, and perhaps the model as it was: then moments have their `cross`
    all_logits  the head's input is wanted, which is only computed for rows with logits
    """
    sums = Sums(groups, len(chunks), crossed=len(programs) > 1)
    kvs = [program.new_kv(-(-chunks.shape[1] // PAGE_SIZE)) for program in programs]
    keys = tuple(group.key for group in groups)
    with one_blas_thread(), ThreadPoolExecutor(thread_count()) as team:
        for chunk in chunks:
            batch = single(chunk, all_logits=all_logits)
            captured = [p.capture(batch, kv, keys) for p, kv in zip(programs, kvs, strict=True)]
            adding = [team.submit(sums.add, key, *(one[key] for one in captured)) for key in keys]
            for task in adding:
                task.result()
            if on_tokens is not None:
                on_tokens(len(chunk))
    return sums.moments()

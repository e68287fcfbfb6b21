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
        return Moments(self.hessian / np.outer(scale, scale), self.peak / scale)


class Sums:
    """Moments of several inputs while they grow, one chunk after the other."""

    def __init__(self, groups: Sequence[InputGroup], chunk_count: int) -> None:
        self.chunk_count = chunk_count
        self.hessians = {g.key: np.zeros((g.width, g.width), np.float32) for g in groups}
        self.peaks = {g.key: np.zeros(g.width, np.float32) for g in groups}

    def add(self, key: str, x: F32) -> None:
        """One chunk's rows, float32 [R, I].

        They are scaled before they are multiplied, so the sum stays in range; the rounding of a few
        dozen additions is far below any damping.
        """
        np.maximum(self.peaks[key], np.abs(x).max(axis=0), out=self.peaks[key])
        x = x * np.float32((len(x) * self.chunk_count) ** -0.5)
        self.hessians[key] += x.T @ x  # of one array with itself: numpy computes only half of it

    def moments(self) -> dict[str, Moments]:
        """By the key of each group."""
        return {key: Moments(self.hessians[key], self.peaks[key]) for key in self.hessians}


def gather(
    program: Program,
    chunks: NDArray[np.int32],
    groups: Sequence[InputGroup],
    *,
    all_logits: bool = False,
    on_tokens: Callable[[int], None] | None = None,
) -> dict[str, Moments]:
    """Runs int32 [C, T] chunks and sums the inputs of the groups' linears, by key.

    all_logits  the head's input is wanted, which is only computed for rows with logits
    """
    sums = Sums(groups, len(chunks))
    kv = program.new_kv(-(-chunks.shape[1] // PAGE_SIZE))
    keys = tuple(group.key for group in groups)
    with one_blas_thread(), ThreadPoolExecutor(thread_count()) as team:
        for chunk in chunks:
            batch = single(chunk, all_logits=all_logits)
            captured = program.capture(batch, kv, keys)
            adding = [team.submit(sums.add, key, captured[key]) for key in keys]
            for task in adding:
                task.result()
            if on_tokens is not None:
                on_tokens(len(chunk))
    return sums.moments()

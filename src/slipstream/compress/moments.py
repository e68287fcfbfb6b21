"""What calibration knows of a linear's input: its second moments H = Xᵀ X / rows, and its peaks.

`calibrate` gathers them over a whole model, `stream` block by block; passes read their statistics
from here. Sums grow in the order of the chunks whatever the threads, so equal inputs give equal
bits.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from slipstream.backends.batch import PAGE_SIZE, Program, single
from slipstream.compress.blas import one_blas_thread
from slipstream.compress.inputs import InputGroup
from slipstream.machine import thread_count

F32 = NDArray[np.float32]

DAMPING_LEAST = 0.01


@dataclass(frozen=True)
class Moments:
    """Over all calibration rows: mean of x xᵀ, float32 [I, I], and the largest |x|, float32 [I].

    rows  how many there were; 0: not known
    """

    hessian: F32
    peak: F32
    rows: int = 0

    @property
    def damping(self) -> float:
        """What its H wants added; see `damping_of`."""
        return damping_of(len(self.peak), self.rows)

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
        return replace(self, hessian=self.hessian / np.outer(scale, scale), peak=self.peak / scale)


@dataclass(frozen=True)
class Powers(Moments):
    """Where a pass asks for no more: `hessian` is its diagonal alone, float32 [I]."""

    @property
    def power(self) -> F32:
        """Mean x² of each input, float32 [I]."""
        return self.hessian

    def scaled(self, scale: F32) -> "Powers":
        """Those of x / scale."""
        return replace(self, hessian=self.hessian / scale**2, peak=self.peak / scale)


def damping_of(inputs: int, rows: int) -> float:
    """The share of the mean diagonal that H wants added: inputs / rows, at least 0.01.

    A sample of N rows tells of I inputs only so much. GPTQ int4 g64 on `down` of SmolLM2 (1536
    inputs), loss on other text: of 2048 rows 0.0070 with 0.01, 0.0041 with 1; of 8192 rows 0.0039
    with 0.01, 0.0036 with 0.3. `rows` 0: not known.
    """
    return max(DAMPING_LEAST, inputs / rows) if rows else DAMPING_LEAST


class Sums:
    """Moments of several inputs while they grow, one chunk after the other.

    kind  `Powers` sums squares alone
    """

    def __init__(
        self, groups: Sequence[InputGroup], chunk_count: int, kind: type[Moments] = Moments
    ) -> None:
        self.chunk_count = chunk_count
        self.kind = kind
        sides = 1 if kind is Powers else 2
        self.hessians = {g.key: np.zeros((g.width,) * sides, np.float32) for g in groups}
        self.peaks = {g.key: np.zeros(g.width, np.float32) for g in groups}
        self.rows = {g.key: 0 for g in groups}

    def add(self, key: str, x: F32) -> None:
        """One chunk's rows, float32 [R, I].

        They are scaled before they are multiplied, so the sum stays in range; the rounding of a few
        dozen additions is far below any damping.
        """
        self.rows[key] += len(x)
        np.maximum(self.peaks[key], np.abs(x).max(axis=0), out=self.peaks[key])
        x = x * np.float32((len(x) * self.chunk_count) ** -0.5)
        if self.kind is Powers:
            self.hessians[key] += np.square(x).sum(axis=0)
            return
        self.hessians[key] += x.T @ x  # of one array with itself: numpy computes only half of it

    def moments(self) -> dict[str, Moments]:
        """By the key of each group."""
        return {
            key: self.kind(hessian, self.peaks[key], self.rows[key])
            for key, hessian in self.hessians.items()
        }


def gather(
    program: Program,
    chunks: NDArray[np.int32],
    groups: Sequence[InputGroup],
    *,
    kind: type[Moments] = Moments,
    all_logits: bool = False,
    on_tokens: Callable[[int], None] | None = None,
) -> dict[str, Moments]:
    """Runs int32 [C, T] chunks and sums the inputs of the groups' linears, by key.

    kind        `Powers` where the squares are enough
    all_logits  the head's input is wanted, which is only computed for rows with logits
    """
    sums = Sums(groups, len(chunks), kind)
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

"""A measured mean with its bootstrap interval.

Neighbouring positions of a text resemble each other, so whole blocks of consecutive positions are
drawn again, not single positions; the interval is BCa (Efron 1987, doi:10.2307/2289144), which
follows the long upper tail of a divergence where the plain percentile interval falls short.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

BLOCK_POSITIONS = 64  # KL of neighbours is nearly uncorrelated beyond some tens of tokens
CONFIDENCE = 0.95
RESAMPLES = 4000

Means = NDArray[np.float64]  # [..., series]: the mean of each series


@dataclass(frozen=True)
class Measured:
    """A value and the ends of its interval (95 % unless said); all three equal if it is exact."""

    value: float
    low: float
    high: float

    @classmethod
    def exact(cls, value: float) -> "Measured":
        """A value without uncertainty, such as a size on disk."""
        return cls(float(value), float(value), float(value))

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Measured":
        """The inverse of `to_json`."""
        low, high = data["low"], data["high"]
        return cls(
            float(data["value"]),
            -math.inf if low is None else float(low),
            math.inf if high is None else float(high),
        )

    def to_json(self) -> dict[str, float | None]:
        """Plain numbers; an end that is infinite is null."""
        ends = [end if math.isfinite(end) else None for end in (self.low, self.high)]
        return {"value": self.value, "low": ends[0], "high": ends[1]}


def bootstrap(
    series: NDArray[np.float64],
    blocks: NDArray[np.int64],
    statistic: Callable[[Means], NDArray[np.float64]] = lambda means: means[..., 0],
    *,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Measured:
    """`statistic` of the means of `series`, with its interval over blocks.

    series     float64 [S, N]: S quantities measured at the same N positions
    blocks     int64 [N]: the block of each position, 0 … B - 1 (see `blocks_of`)
    statistic  maps means [..., S] to values [...]

    With a single block nothing can be said about the spread: the interval is then infinite.

    >>> bootstrap(np.array([[1.0, 1.0, 1.0]]), np.array([0, 1, 2]))
    Measured(value=1.0, low=1.0, high=1.0)
    """
    counts = np.bincount(blocks).astype(np.float64)  # [B]
    sums: NDArray[np.float64] = np.stack(
        [np.bincount(blocks, weights=row).astype(np.float64) for row in series]
    )  # [S, B]
    value = float(statistic(sums.sum(axis=1) / counts.sum()))
    if len(counts) < 2:
        return Measured(value, -np.inf, np.inf)
    draws = _resample(sums, counts, statistic, resamples, seed)
    leave_one_out = (sums.sum(axis=1)[:, None] - sums) / (counts.sum() - counts)
    low, high = _bca(value, draws, statistic(leave_one_out.T), confidence)
    return Measured(value, min(low, value), max(high, value))


def _resample(
    sums: NDArray[np.float64],
    counts: NDArray[np.float64],
    statistic: Callable[[Means], NDArray[np.float64]],
    resamples: int,
    seed: int,
) -> NDArray[np.float64]:
    """float64 [resamples]: the statistic over blocks drawn with replacement."""
    blocks = len(counts)
    random = np.random.default_rng(seed)
    weights = random.multinomial(blocks, np.full(blocks, 1 / blocks), size=resamples)  # [R, B]
    return statistic((weights @ sums.T) / (weights @ counts)[:, None])


def _bca(
    value: float, draws: NDArray[np.float64], jackknife: NDArray[np.float64], confidence: float
) -> tuple[float, float]:
    """The ends of the bias-corrected, accelerated interval."""
    below = (np.sum(draws < value) + np.sum(draws <= value)) / (2 * len(draws))
    if not 0 < below < 1:
        return float(draws.min()), float(draws.max())
    bias = ndtri(below)
    deviation = jackknife.mean() - jackknife
    spread = float(np.sum(deviation**2)) ** 1.5
    acceleration = float(np.sum(deviation**3)) / (6 * spread) if spread > 0 else 0.0
    tails = bias + ndtri(np.array([(1 - confidence) / 2, (1 + confidence) / 2]))
    levels = ndtr(bias + tails / (1 - acceleration * tails))
    low, high = np.quantile(draws, levels)
    return float(low), float(high)


def blocks_of(
    chunk_positions: NDArray[np.int64], block: int = BLOCK_POSITIONS
) -> NDArray[np.int64]:
    """int64 [N]: block numbers for chunks with the given numbers of positions, in order.

    Each chunk is cut into nearly equal blocks of about `block` positions; none spans two chunks.
    """
    numbers: list[NDArray[np.int64]] = []
    first = 0
    for positions in chunk_positions:
        pieces = max(1, round(int(positions) / block))
        numbers.append(first + np.arange(positions, dtype=np.int64) * pieces // positions)
        first += pieces
    return np.concatenate(numbers) if numbers else np.zeros(0, np.int64)

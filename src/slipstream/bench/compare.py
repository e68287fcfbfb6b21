"""Is one faster than the other, or is it the noise of this machine?

Samples taken in alternation are compared pair by pair. The noise is measured, not assumed: the same
program under two names (A/A) shows how far apart equals come out; a difference inside that band, or
one whose confidence interval holds 1, is not called a difference.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from slipstream.bench.samples import Samples

Verdict = Literal["faster", "slower", "no difference seen"]
CONFIDENCE = 0.95
RESAMPLES = 2000
PAIRS_MIN = 5  # with fewer, an interval of a median says nothing


@dataclass(frozen=True)
class Comparison:
    """How many times as fast the second is, with its interval and the noise band."""

    ratio: float
    low: float
    high: float
    noise: float  # equals differ by up to this share
    verdict: Verdict

    def __str__(self) -> str:
        return f"{self.ratio:.2f}× [{self.low:.2f}, {self.high:.2f}] {self.verdict}"

    def as_json(self) -> dict[str, object]:
        """All fields."""
        return dict(vars(self))


def ratio_interval(first: Samples, second: Samples, seed: int = 0) -> tuple[float, float, float]:
    """Median of the paired ratios second / first, and its bootstrap interval at 95 %."""
    if len(first.values) != len(second.values):
        raise ValueError("pairs need as many samples of one as of the other")
    ratios = np.asarray(second.values) / np.asarray(first.values)
    draw = np.random.default_rng(seed)
    picks = draw.integers(len(ratios), size=(RESAMPLES, len(ratios)))
    medians = np.median(ratios[picks], axis=1)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(medians, [tail, 1 - tail])
    return float(np.median(ratios)), float(low), float(high)


def noise_band(first: Samples, again: Samples) -> float:
    """How far from 1 the ratio of two equals may be: the farther end of its A/A interval."""
    _, low, high = ratio_interval(first, again)
    return max(abs(low - 1), abs(high - 1))


def compare(first: Samples, second: Samples, noise: float = 0.0) -> Comparison:
    """Speeds (more is better) of two, taken in alternation; `noise` comes from `noise_band`.

    Refuses to see a difference within the noise, in an interval that holds 1, or in too few pairs.
    """
    ratio, low, high = ratio_interval(first, second)
    return Comparison(ratio, low, high, noise, _verdict(len(first.values), ratio, low, high, noise))


def _verdict(pairs: int, ratio: float, low: float, high: float, noise: float) -> Verdict:
    if pairs < PAIRS_MIN or low <= 1 <= high or abs(ratio - 1) <= noise:
        return "no difference seen"
    return "faster" if ratio > 1 else "slower"

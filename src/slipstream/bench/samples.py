"""Repeated measurements of one thing: never a single number, always the samples behind it."""

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Samples:
    """Measurements in the order they were taken; at least one."""

    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.values:
            raise ValueError("a measurement needs at least one sample")

    @property
    def median(self) -> float:
        """The middle one, or the mean of the middle two."""
        return median(self.values)

    @property
    def low(self) -> float:
        """The lowest."""
        return min(self.values)

    @property
    def high(self) -> float:
        """The highest."""
        return max(self.values)

    def rates(self, work: float) -> "Samples":
        """Seconds turned into `work` per second."""
        return Samples(tuple(work / seconds for seconds in self.values))

    def as_json(self) -> dict[str, object]:
        """Summary and raw samples, for a file or ``--json``."""
        return {
            "median": self.median,
            "low": self.low,
            "high": self.high,
            "samples": list(self.values),
        }

    def __str__(self) -> str:
        return f"{self.median:.1f} ({self.low:.1f}…{self.high:.1f})"


def gather(values: Iterable[float]) -> Samples:
    """Samples from any iterable of numbers."""
    return Samples(tuple(float(value) for value in values))

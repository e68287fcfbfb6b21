"""Whether a measured candidate keeps the limits that a user set.

A limit is kept only if the unfavourable end of the 95 % interval keeps it: the upper end for
``kl < 0.02``, the lower end for ``top1 > 0.95``. A candidate that is good on average but not
provably so has not kept its limit; more evaluation tokens narrow the interval.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from slipstream.evaluate.interval import Measured


@dataclass(frozen=True)
class Limit:
    """``metric comparison value``, the value in the metric's own unit (bytes, tokens/second)."""

    metric: str
    comparison: Literal["<", ">"]
    value: float
    text: str  # as the user wrote it

    def worst(self, measured: Measured) -> float:
        """The end of the interval that counts against the candidate."""
        return measured.high if self.comparison == "<" else measured.low

    def met_by(self, measured: Measured) -> bool:
        """Strictly on the right side."""
        worst = self.worst(measured)
        return worst < self.value if self.comparison == "<" else worst > self.value

    def miss(self, measured: Measured) -> float:
        """By what factor the limit is missed, as |log|: 0 when met; 0.69 is a factor of two."""
        if self.met_by(measured):
            return 0.0
        worst = self.worst(measured)
        if worst <= 0 or self.value <= 0 or not math.isfinite(worst):
            return math.inf
        return abs(math.log(worst / self.value))


@dataclass(frozen=True)
class Finding:
    """One limit held against one measurement."""

    limit: Limit
    measured: Measured
    met: bool
    miss: float


@dataclass(frozen=True)
class Verdict:
    """All limits held against one candidate."""

    findings: tuple[Finding, ...]

    @property
    def met(self) -> bool:
        """Whether every limit is kept."""
        return all(finding.met for finding in self.findings)

    @property
    def miss(self) -> float:
        """The sum of the misses: how near the candidate came."""
        return sum(finding.miss for finding in self.findings)


def judge(limits: Sequence[Limit], measured: Mapping[str, Measured]) -> Verdict:
    """Holds each limit against the measurement of its metric; KeyError if it was not measured."""
    return Verdict(
        tuple(
            Finding(limit, it, limit.met_by(it), limit.miss(it))
            for limit in limits
            for it in (measured[limit.metric],)
        )
    )

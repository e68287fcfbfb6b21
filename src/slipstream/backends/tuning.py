"""Which way of computing a linear is fastest on this machine, decided so that noise cannot decide.

`backends.tuned` asks, at the first start of a shape that was never timed here. The default is timed
as two names (A/A) beside each candidate, in rounds; a candidate is taken only if it wins nearly
every round of two independent races, by more than the two names of the default differ. All plans
give the same bits (csrc/kernels/linear.h), so a choice changes time and nothing else.
"""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

ROUNDS = 12
LOSSES_MOST = 2  # of a race's rounds: equals win 10 of 12 in one race of 50, both in one of 2,500
GAIN_MIN = 0.03  # of the time: less is not worth a line in a file

RowClass = str  # "few", "some", "many"
ROWS_TIMED: Mapping[RowClass, int] = {"few": 1, "some": 16, "many": 64}


@dataclass(frozen=True)
class LinearPlan:
    """LinearPlan of csrc/step/linear_operation.h."""

    direct_rows: int
    prefetch_bytes: int
    task_rows: int
    tasks: int

    @property
    def values(self) -> tuple[int, int, int, int]:
        """As the native module takes it."""
        return self.direct_rows, self.prefetch_bytes, self.task_rows, self.tasks


Way = TypeVar("Way", bound=Hashable)  # of computing the same: a plan, or the name of a form


@dataclass(frozen=True)
class Choice(Generic[Way]):
    """What a race came to: `plan` None means that the default stays."""

    plan: Way | None
    gain: float  # of the time, of the best candidate; below zero: it was slower
    noise: float  # by what share the default differs from itself
    note: str = ""


def candidates_of(rows: RowClass, default: LinearPlan) -> tuple[LinearPlan, ...]:
    """Plans that differ from the default in one thing that can matter for so many rows."""
    if rows == "few":
        ways = [replace(default, prefetch_bytes=size) for size in (1024, 16384)]
        return (*ways, *(replace(default, tasks=count) for count in (4, 16)))
    ways = [replace(default, tasks=count) for count in (4, 16)]
    extra = replace(default, direct_rows=8) if rows == "some" else replace(default, task_rows=32)
    return (*ways, extra)


def race_cost(candidates: Sequence[LinearPlan], sample_s: float) -> float:
    """Seconds that `choose` takes at most, when one sample takes `sample_s`."""
    return sample_s * ROUNDS * ((2 + len(candidates)) + 3)


def choose(default: Way, candidates: Sequence[Way], time_s: Callable[[Way], float]) -> Choice[Way]:
    """Races the candidates against the default; the winner must win again, alone."""
    first = _race(default, candidates, time_s)
    best = min(candidates, key=first.change)
    note = first.objection(best)
    if not note:
        second = _race(default, [best], time_s)
        note = second.objection(best) and f"not confirmed: {second.objection(best)}"
        gain = -max(first.change(best), second.change(best))
        return Choice(None if note else best, gain, max(first.noise, second.noise), note)
    return Choice(None, -first.change(best), first.noise, note)


@dataclass(frozen=True)
class _Race(Generic[Way]):
    """Seconds of each round: of the default twice, and of each candidate."""

    once: Sequence[float]
    again: Sequence[float]
    others: Mapping[Way, Sequence[float]]

    @property
    def noise(self) -> float:
        """What three quarters of the rounds of the default against itself stay below."""
        apart = [abs(math.log(a / b)) for a, b in zip(self.once, self.again, strict=True)]
        return math.expm1(sorted(apart)[ROUNDS * 3 // 4])

    def changes(self, plan: Way) -> list[float]:
        """Of each round: the share of time that the plan adds to the default's."""
        pairs = zip(self.once, self.again, self.others[plan], strict=True)
        return [time / math.sqrt(a * b) - 1 for a, b, time in pairs]

    def change(self, plan: Way) -> float:
        """The median of them."""
        ordered = sorted(self.changes(plan))
        return (ordered[(ROUNDS - 1) // 2] + ordered[ROUNDS // 2]) / 2

    def objection(self, plan: Way) -> str:
        """Why the plan has not won; empty if it has."""
        lost = sum(change >= 0 for change in self.changes(plan))
        if lost > LOSSES_MOST:
            return f"lost {lost} of {ROUNDS} rounds"
        if -self.change(plan) < max(GAIN_MIN, self.noise):
            return "within the noise"
        return ""


def _race(default: Way, candidates: Sequence[Way], time_s: Callable[[Way], float]) -> _Race[Way]:
    """Every round begins with another of them, so that none always comes after the same."""
    arms = [default, default, *candidates]
    times: list[list[float]] = [[] for _ in arms]
    for turn in range(ROUNDS):
        for place in range(len(arms)):
            arm = (turn + place) % len(arms)
            times[arm].append(max(1e-9, time_s(arms[arm])))
    return _Race(times[0], times[1], dict(zip(candidates, times[2:], strict=True)))

"""What a search found: one result a candidate, the Pareto front, and the choice under limits.

Pure data and decisions: the search fills it; the terminal, the report and the manifest show it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from slipstream.compress.recipe import Recipe
from slipstream.evaluate.evaluation import Evaluation
from slipstream.evaluate.interval import Measured
from slipstream.evaluate.verdict import Limit, Verdict, judge

Role = Literal["baseline", "stored", "candidate"]

TIE = 0.03  # decode speeds nearer than this are a tie: quality decides


@dataclass(frozen=True)
class Result:
    """One row of the table. Speeds are tokens per second, with the lowest and highest sample."""

    name: str
    role: Role
    recipe: Recipe
    evaluation: Evaluation | None = None
    size_bytes: int = 0
    memory_bytes: int = 0
    decode: Measured | None = None
    prefill: Measured | None = None
    build_s: float = 0.0
    failure: str | None = None

    @property
    def complete(self) -> bool:
        """Whether both quality and speed were measured."""
        return self.evaluation is not None and self.decode is not None

    def measurements(self) -> dict[str, Measured]:
        """By the names that limits use."""
        named = {
            "size": Measured.exact(self.size_bytes),
            "memory": Measured.exact(self.memory_bytes),
        }
        if self.evaluation is not None:
            named |= self.evaluation.measurements()
        if self.decode is not None and self.prefill is not None:
            named |= {"decode": self.decode, "prefill": self.prefill}
        return named

    @property
    def kl(self) -> Measured:
        """Only of evaluated results."""
        assert self.evaluation is not None and self.evaluation.distance is not None
        return self.evaluation.distance.kl

    def with_speed(self, decode: Measured, prefill: Measured) -> "Result":
        """The same result, timed."""
        return replace(self, decode=decode, prefill=prefill)

    def to_json(self) -> dict[str, Any]:
        """Plain data; the inverse is `from_json`."""
        data = {**vars(self), "recipe": self.recipe.to_json()}
        for name in ("evaluation", "decode", "prefill"):
            value = data[name]
            data[name] = None if value is None else value.to_json()
        return data

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Result":
        """Reads what `to_json` wrote."""
        fields = dict(data)
        fields["recipe"] = Recipe.from_json(fields["recipe"])
        if fields["evaluation"] is not None:
            fields["evaluation"] = Evaluation.from_json(fields["evaluation"])
        for name in ("decode", "prefill"):
            if fields[name] is not None:
                fields[name] = Measured.from_json(fields[name])
        return cls(**fields)


@dataclass(frozen=True)
class Study:
    """A finished search."""

    model: str
    baseline: Result
    stored: Result | None
    candidates: tuple[Result, ...]
    limits: tuple[Limit, ...]
    text: str  # where the evaluation text came from, in words
    evaluation_tokens: int
    calibration_tokens: int
    facts: dict[str, Any] = field(default_factory=dict)  # machine, versions, settings, seconds

    @property
    def measured(self) -> tuple[Result, ...]:
        """The candidates with all measurements."""
        return tuple(result for result in self.candidates if result.complete)

    @property
    def rows(self) -> tuple[Result, ...]:
        """Everything that was measured, the baseline first."""
        stored = () if self.stored is None else (self.stored,)
        return (self.baseline, *stored, *self.candidates)

    def verdict(self, result: Result) -> Verdict:
        """The limits held against one row."""
        return judge(self.limits, result.measurements())

    def front(self) -> tuple[Result, ...]:
        """The candidates that no other beats in KL, decode speed and size together."""
        return pareto_front(self.measured)

    def choice(self) -> Result | None:
        """The fastest decoder within the limits; among ties (3 %) the one nearest the original."""
        return choose([r for r in self.measured if self.verdict(r).met])

    def nearest_misses(self, count: int = 3) -> tuple[Result, ...]:
        """Those that come nearest to the limits, the nearest first."""
        return tuple(sorted(self.measured, key=lambda r: self.verdict(r).miss)[:count])

    def to_json(self) -> dict[str, Any]:
        """Everything, for ``--json`` and the manifest."""
        choice = self.choice()
        return {
            "model": self.model,
            "text": self.text,
            "evaluation_tokens": self.evaluation_tokens,
            "calibration_tokens": self.calibration_tokens,
            "limits": [limit.text for limit in self.limits],
            "rows": [self._row_json(result) for result in self.rows],
            "pareto_front": [result.name for result in self.front()],
            "choice": None if choice is None else choice.name,
            "facts": self.facts,
        }

    def _row_json(self, result: Result) -> dict[str, Any]:
        within = self.verdict(result).met if result.complete else None
        return {**result.to_json(), "within_limits": within}


def choose(within: Sequence[Result]) -> Result | None:
    """See `Study.choice`."""
    speeds = [r.decode.value for r in within if r.decode is not None]
    if not speeds:
        return None
    fast = [r for r in within if r.decode and r.decode.value >= (1 - TIE) * max(speeds)]
    return min(fast, key=lambda r: r.kl.value)


def pareto_front(results: Sequence[Result]) -> tuple[Result, ...]:
    """Results that none other equals or beats in KL, decode speed and size at once."""

    def costs(result: Result) -> tuple[float, float, float]:
        assert result.decode is not None
        return (result.kl.value, -result.decode.value, float(result.size_bytes))

    def beaten(result: Result) -> bool:
        mine = costs(result)
        return any(
            costs(other) != mine and all(a <= b for a, b in zip(costs(other), mine, strict=True))
            for other in results
        )

    return tuple(result for result in results if not beaten(result))

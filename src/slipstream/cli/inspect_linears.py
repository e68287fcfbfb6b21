"""What `inspect` and `bench kernels` say of the plans of linears that were timed here."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from slipstream.backends.sparse_forms import SparseChoices, read_sparse, sparse_path
from slipstream.backends.tuned import Choices, choices_path, load
from slipstream.backends.tuning import Choice, LinearPlan
from slipstream.machine import tuning_wanted


@dataclass(frozen=True)
class Linears:
    """The file of choices: every shape that was timed here, of whatever model."""

    path: Path
    choices: Choices
    wanted: bool = True
    sparse: SparseChoices = field(default_factory=dict)  # by width, format and zeros

    def __str__(self) -> str:
        if not self.wanted:
            return "default plans (SLIPSTREAM_TUNE is 0)"
        return "; ".join([self._plans(), *self.forms()])

    def _plans(self) -> str:
        if not self.choices:
            return "default plans; the first start times them (or: slipstream bench kernels --tune)"
        notes = [choice.note for rows in self.choices.values() for choice in rows.values()]
        timed = sum(not note.startswith("not timed") for note in notes)
        chosen = "; ".join(self.chosen()) or "every default stays"
        return f"{timed} of {len(notes)} timed on this machine, {chosen}"

    def chosen(self) -> list[str]:
        """A line for each plan that beat its default."""
        return [
            f"{shape}, {rows} rows: {plan_words(choice.plan)} (−{choice.gain:.0%})"
            for shape, by_rows in self.choices.items()
            for rows, choice in by_rows.items()
            if choice.plan is not None
        ]

    def forms(self) -> list[str]:
        """A line for each width and format of pruned matrices that was raced here."""
        return [
            f"pruned {shape}: {choice.plan or 'dense'} ({choice.note or f'−{choice.gain:.0%}'})"
            for shape, choice in self.sparse.items()
        ]

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        shapes = {
            shape: {rows: asdict(choice) for rows, choice in by_rows.items()}
            for shape, by_rows in self.choices.items()
        }
        sparse = {shape: asdict(choice) for shape, choice in self.sparse.items()}
        return {"path": str(self.path), "wanted": self.wanted, "shapes": shapes, "sparse": sparse}


def linears_of(isa: str, threads: int) -> Linears:
    """What is kept for this machine."""
    path = choices_path(isa, threads)
    sparse = read_sparse(sparse_path(isa, threads))
    return Linears(path, load(path) or {}, tuning_wanted(), sparse)


def plan_words(plan: LinearPlan) -> str:
    """``direct 16 rows, ahead 4 KiB, tasks of 128 rows, 8 a thread``."""
    return (
        f"direct {plan.direct_rows} rows, ahead {plan.prefetch_bytes / 1024:g} KiB, "
        f"tasks of {plan.task_rows} rows, {plan.tasks} a thread"
    )


def choice_words(choice: Choice[LinearPlan]) -> str:
    """What a race came to, in a cell."""
    if choice.plan is not None:
        return plan_words(choice.plan)
    return f"default ({choice.note})" if choice.note else "default"

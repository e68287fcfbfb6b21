"""The plans of linears that were chosen by timing on this machine, kept for every later start.

`backends.native` calls `plan_linears` for each program. A shape is timed at its first use only, in
at most 0.8 s altogether (at the next start if the machine was too busy for any of it); what was
found, and that nothing was, is kept in one small file beside the packed weights. SLIPSTREAM_TUNE=0
leaves all at their defaults; `slipstream bench kernels --tune` times again. A damaged file is
ignored and written anew.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from slipstream.backends.choice_file import read_choices, write_choices
from slipstream.backends.tuning import (
    ROWS_TIMED,
    Choice,
    LinearPlan,
    RowClass,
    candidates_of,
    choose,
    race_cost,
)
from slipstream.machine import cache_dir, machine, tuning_wanted

TUNING_S, REDO_S = 0.8, 10.0  # of a first start; of somebody who asks for it
BYTES_MIN = 16 << 20  # of a program's linears: a smaller one has no step worth the time
STREAMED_BYTES = 3 << 20  # of weights in a sample of one row, so that they come from memory
VALUE_MOST = 1 << 20
NOT_TIMED = "not timed: it would take too long"

Choices = dict[str, dict[RowClass, Choice[LinearPlan]]]  # by shape


class LinearHandle(Protocol):
    """What is needed of a native program."""

    def linears(self) -> list[tuple[int, str, int]]:
        """(node, shape, bytes) of each linear."""
        ...

    def linear_plan(self, node: int, rows: int) -> tuple[int, int, int, int]:
        """The plan of a linear for so many rows."""
        ...

    def time_linears(self, nodes: list[int], rows: int, plan: tuple[int, int, int, int]) -> int:
        """Nanoseconds of all of them."""
        ...

    def plan_linears(self, nodes: list[int], rows: int, plan: tuple[int, int, int, int]) -> None:
        """Sets the plan for the class that `rows` belong to."""
        ...


def choices_path(isa: str, threads: int) -> Path:
    """Where the choices of this machine are kept."""
    return cache_dir() / "linears" / f"{machine().fingerprint}-{isa}-{threads}.json"


def plan_linears(handle: LinearHandle, path: Path, *, tune: bool, redo: bool = False) -> Choices:
    """Gives every linear its plan. `tune`: times shapes that `path` lacks; `redo`: all shapes.

    Returns what is known of the program's shapes.
    """
    if not tuning_wanted() and not redo:
        return {}
    shapes = _nodes_by_shape(handle)
    known = load(path) or {}
    large = sum(size for _, _, size in handle.linears()) >= BYTES_MIN
    missing = [shape for shape in shapes if redo or not _was_timed(known.get(shape, {}))]
    if missing and (redo or (tune and large)):
        budget_s = REDO_S if redo else TUNING_S
        known = {**known, **_tune(handle, {shape: shapes[shape] for shape in missing}, budget_s)}
        store(path, known)
    for shape, nodes in shapes.items():
        for rows, choice in known.get(shape, {}).items():
            if choice.plan is not None:
                handle.plan_linears(
                    [node.number for node in nodes], ROWS_TIMED[rows], choice.plan.values
                )
    return {shape: known[shape] for shape in shapes if shape in known}


def _was_timed(choices: Mapping[RowClass, Choice[LinearPlan]]) -> bool:
    """Whether any class was: none is where the machine was too busy, so a later start tries."""
    return any(choice.note != NOT_TIMED for choice in choices.values())


@dataclass(frozen=True)
class _Node:
    number: int
    size_bytes: int


def _nodes_by_shape(handle: LinearHandle) -> dict[str, list[_Node]]:
    found: dict[str, list[_Node]] = {}
    for number, shape, size_bytes in handle.linears():
        found.setdefault(shape, []).append(_Node(number, size_bytes))
    return found


@dataclass
class _Item:
    """A shape at a number of rows; `sample` times one plan on the next of the shape's nodes."""

    handle: LinearHandle
    nodes: Sequence[_Node]
    rows: RowClass
    cursor: int = 0

    def sample(self, plan: LinearPlan) -> float:
        streamed = -(-STREAMED_BYTES // self.nodes[0].size_bytes) if self.rows == "few" else 1
        count = min(streamed, len(self.nodes))
        chosen = [self.nodes[(self.cursor + i) % len(self.nodes)].number for i in range(count)]
        self.cursor += count
        return self.handle.time_linears(chosen, ROWS_TIMED[self.rows], plan.values) * 1e-9

    @property
    def default(self) -> LinearPlan:
        number = self.nodes[0].number
        return LinearPlan(*self.handle.linear_plan(number, ROWS_TIMED[self.rows]))


def _tune(
    handle: LinearHandle,
    shapes: Mapping[str, Sequence[_Node]],
    budget_s: float,
    clock: Callable[[], float] = time.monotonic,
) -> Choices:
    """Races the cheap ones first; what does not fit into the budget keeps its default."""
    end = clock() + budget_s
    items: list[tuple[float, str, _Item]] = []
    found: Choices = {shape: {} for shape in shapes}
    for shape, nodes in shapes.items():
        for rows in ROWS_TIMED:
            found[shape][rows] = Choice(None, 0.0, 0.0, NOT_TIMED)
            if clock() < end:
                item = _Item(handle, nodes, rows)
                items.append((_sample_cost(item, clock), shape, item))
    for sample_s, shape, item in sorted(items, key=lambda entry: entry[0]):
        default = item.default
        ways = candidates_of(item.rows, default)
        if clock() + race_cost(ways, sample_s) < end:
            found[shape][item.rows] = choose(default, ways, item.sample)
    return found


def _sample_cost(item: _Item, clock: Callable[[], float]) -> float:
    """Seconds of a sample with everything about it, from one that also warms up."""
    start = clock()
    item.sample(item.default)
    return clock() - start


# ---- the file ------------------------------------------------------------------------------------


def load(path: Path) -> Choices | None:
    """What `store` wrote there; None when it is missing, damaged or of another version."""
    return read_choices(path, _read_shape)


def _read_shape(data: Mapping[str, Any]) -> dict[RowClass, Choice[LinearPlan]]:
    return {rows: _read_choice(data[rows]) for rows in ROWS_TIMED}


def _read_choice(data: Mapping[str, Any]) -> Choice[LinearPlan]:
    plan = None
    if data["plan"] is not None:
        plan = LinearPlan(**data["plan"])
        for value in plan.values:
            if type(value) is not int or not 0 <= value <= VALUE_MOST:
                raise ValueError("a plan is out of range")
        if min(plan.direct_rows, plan.task_rows, plan.tasks) < 1:
            raise ValueError("a plan is out of range")
    return Choice(plan, float(data["gain"]), float(data["noise"]), str(data["note"]))


def store(path: Path, choices: Choices) -> None:
    """Writes the file whole, through a renamed neighbor; a read-only folder is no error."""
    shapes = {
        shape: {rows: asdict(choice) for rows, choice in by_rows.items()}
        for shape, by_rows in choices.items()
    }
    write_choices(path, shapes)

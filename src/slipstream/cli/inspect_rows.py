"""The account behind `slipstream inspect`: what a model is, and what each kind of operation costs.

`cli/inspect.py` prints what is gathered here. Predictions come from `graph/cost.py` and this
machine's ceilings; measurements, where there are any, are separate fields beside them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from slipstream.formats.tensor import CodebookTensor, DenseTensor, NestedTensor, Tensor
from slipstream.graph import ops
from slipstream.graph.cost import Cost, Size, StepShape, costs_of, predict_s
from slipstream.graph.graph import Graph
from slipstream.machine import Ceilings


@dataclass(frozen=True)
class Stored:
    """How many numbers and bytes are stored in one format."""

    format: str
    tensors: int
    parameters: int
    size_bytes: int


@dataclass(frozen=True)
class Weights:
    """What one look at every weight of a graph found."""

    sizes: Mapping[str, Size]
    formats: tuple[Stored, ...]

    @property
    def parameters(self) -> int:
        """Numbers in all weights; a head tied to the embedding counts once."""
        return sum(stored.parameters for stored in self.formats)

    @property
    def size_bytes(self) -> int:
        """Bytes of all weights as they are stored."""
        return sum(stored.size_bytes for stored in self.formats)


@dataclass(frozen=True)
class Row:
    """One node, or all nodes of one kind: their cost, and predicted and measured seconds."""

    name: str
    count: int
    cost: Cost
    predicted_s: float
    measured_s: float | None = None


def format_name(tensor: Tensor) -> str:
    """``int4 group 32, minimum`` or the name of a dense type."""
    if isinstance(tensor, DenseTensor):
        return str(tensor.data.dtype)
    group = "row" if tensor.format.group is None else f"group {tensor.format.group}"
    if isinstance(tensor, CodebookTensor):
        return f"{tensor.format.name} {group}"
    nested = ", nested scales" if isinstance(tensor, NestedTensor) else ""
    return f"int{tensor.format.bits} {group}, {tensor.format.zero.replace('_', ' ')}{nested}"


def look_at(graph: Graph, weights: Mapping[str, Tensor]) -> Weights:
    """Reads every weight once, keeping its size and format only."""
    sizes: dict[str, Size] = {}
    formats: dict[str, list[Size]] = {}
    for name in graph.weight_names():
        tensor = weights[name]
        sizes[name] = Size(tuple(tensor.shape), tensor.size_bytes)
        formats.setdefault(format_name(tensor), []).append(sizes[name])
    return Weights(sizes, tuple(_stored(name, group) for name, group in formats.items()))


def _stored(name: str, group: Iterable[Size]) -> Stored:
    sizes = list(group)
    numbers = 0
    for size in sizes:
        count = 1
        for length in size.shape:
            count *= length
        numbers += count
    return Stored(name, len(sizes), numbers, sum(size.size_bytes for size in sizes))


def kind_of(op: ops.Op) -> str:
    """The operation's name as the tables print it: ``GatedLinear`` → ``gated linear``."""
    name = type(op).__name__
    return "".join(f" {c.lower()}" if c.isupper() else c for c in name).strip()


def rows_of_nodes(
    graph: Graph,
    sizes: Mapping[str, Size],
    step: StepShape,
    ceilings: Ceilings,
    measured_s: Mapping[str, float] | None = None,
) -> list[Row]:
    """One row per node, in the order they run. `measured_s` is by node name."""
    costs = costs_of(graph, sizes, step)
    return [
        Row(name, 1, cost, predict_s(cost, ceilings), (measured_s or {}).get(name))
        for name, cost in costs.items()
    ]


def rows_of_kinds(graph: Graph, rows: Iterable[Row]) -> list[Row]:
    """Rows of nodes added up by kind of operation, in order of first appearance.

    The head is a kind of its own: it is the linear that reads the vocabulary.
    """
    kinds = {node.name: kind_of(node.op) for node in graph}
    kinds[graph.nodes[-1].name] = "head" if isinstance(graph.nodes[-1].op, ops.Linear) else ""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(kinds[row.name] or kind_of(graph.nodes[-1].op), []).append(row)
    return [add(name, group) for name, group in groups.items()]


def add(name: str, rows: Iterable[Row]) -> Row:
    """The sum of rows; measured only where every one of them is."""
    group = list(rows)
    measured = [row.measured_s for row in group if row.measured_s is not None]
    return Row(
        name,
        sum(row.count for row in group),
        sum((row.cost for row in group), Cost()),
        sum(row.predicted_s for row in group),
        sum(measured) if len(measured) == len(group) else None,
    )

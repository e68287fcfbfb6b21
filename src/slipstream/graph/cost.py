"""What an operation costs: the bytes it moves and the arithmetic it does, in one step.

One account for the roofline, `inspect`, the search and the simulator. Counted, never measured:
weights are read once per step, cached keys and values once per sequence, activations are read and
written once per operation as float32. A multiply-add is two operations.

    step of 2 sequences:  rows (1, 3) new tokens on top of contexts (500, 0) already cached
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from slipstream.formats.kv import KVType, kv_position_bytes
from slipstream.graph import ops
from slipstream.graph.graph import Graph, Node, weights_of
from slipstream.machine import Ceilings

FLOAT_BYTES = 4  # an activation between two operations


@dataclass(frozen=True)
class Cost:
    """Bytes by where they come from, operations by the unit that does them. Costs add."""

    bytes_weights: int = 0
    bytes_kv: int = 0
    bytes_activations: int = 0
    operations_int8: int = 0
    operations_bf16: int = 0
    operations_f32: int = 0

    @property
    def bytes(self) -> int:
        """All bytes moved."""
        return self.bytes_weights + self.bytes_kv + self.bytes_activations

    @property
    def operations(self) -> int:
        """All operations, of every kind."""
        return self.operations_int8 + self.operations_bf16 + self.operations_f32

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.bytes_weights + other.bytes_weights,
            self.bytes_kv + other.bytes_kv,
            self.bytes_activations + other.bytes_activations,
            self.operations_int8 + other.operations_int8,
            self.operations_bf16 + other.operations_bf16,
            self.operations_f32 + other.operations_f32,
        )


@dataclass(frozen=True)
class StepShape:
    """How much one step does: for each sequence, its new rows and the positions already cached.

    `kv` is how keys and values are stored; `logit_rows` defaults to one row per sequence.
    """

    rows: tuple[int, ...] = (1,)
    contexts: tuple[int, ...] = (0,)
    kv: KVType = "bfloat16"
    logit_rows: int | None = None

    def __post_init__(self) -> None:
        if len(self.rows) != len(self.contexts):
            raise ValueError("every sequence needs its rows and its context")

    @property
    def row_count(self) -> int:
        """Rows of the whole batch."""
        return sum(self.rows)

    @property
    def logit_count(self) -> int:
        """Rows that reach the head."""
        return len(self.rows) if self.logit_rows is None else self.logit_rows


class Stored(Protocol):
    """As much of a stored tensor as costs need; `formats.tensor.Tensor` has it."""

    @property
    def shape(self) -> tuple[int, ...]:
        """As the model sees it."""
        ...

    @property
    def size_bytes(self) -> int:
        """What it occupies."""
        ...


@dataclass(frozen=True)
class Size:
    """A weight's shape and its bytes, without its numbers."""

    shape: tuple[int, ...]
    size_bytes: int


@dataclass(frozen=True)
class Value:
    """A value between two operations: its width, and whether `Select` has thinned its rows."""

    width: int
    selected: bool = False

    def elements(self, step: StepShape) -> int:
        """How many numbers it holds in a step."""
        return self.width * (step.logit_count if self.selected else step.row_count)


def sizes_of(graph: Graph, weights: Mapping[str, Stored]) -> dict[str, Size]:
    """Looks at every weight once (a lazy mapping reads it from disk) and keeps only its size."""
    sizes = {}
    for name in graph.weight_names():
        tensor = weights[name]
        sizes[name] = Size(tuple(tensor.shape), tensor.size_bytes)
    return sizes


def values_of(graph: Graph, sizes: Mapping[str, Stored]) -> dict[str, Value]:
    """The width of every value of the graph; ``ids`` has width 1."""
    values = {"ids": Value(1)}
    for node in graph:
        first = values[node.inputs[0]]
        for index, name in enumerate(node.outputs):
            values[name] = _output(node.op, index, first, sizes)
    return values


def _output(op: ops.Op, index: int, first: Value, sizes: Mapping[str, Stored]) -> Value:
    match op:
        case ops.Embed(weight=weight):
            return Value(sizes[weight].shape[1])
        case ops.Linear(weights=weights):
            return Value(sizes[weights[index]].shape[0], first.selected)
        case ops.GatedLinear(gate=gate):
            return Value(sizes[gate].shape[0], first.selected)
        case ops.Select():
            return Value(first.width, selected=True)
        case _:
            return first


def costs_of(graph: Graph, weights: Mapping[str, Stored], step: StepShape) -> dict[str, Cost]:
    """The cost of every node of one step, by node name, in the graph's order."""
    values = values_of(graph, weights)
    return {node.name: cost_of(node, weights, values, step) for node in graph}


def step_cost(graph: Graph, weights: Mapping[str, Stored], step: StepShape) -> Cost:
    """The cost of a whole step."""
    return sum(costs_of(graph, weights, step).values(), Cost())


def cost_of(
    node: Node, weights: Mapping[str, Stored], values: Mapping[str, Value], step: StepShape
) -> Cost:
    """The cost of one node; `values` comes from `values_of` on the same graph."""
    read = sum(values[name].elements(step) for name in dict.fromkeys(node.inputs))
    written = sum(values[name].elements(step) for name in node.outputs)
    moved = Cost(bytes_activations=(read + written) * FLOAT_BYTES)
    first, elements = values[node.inputs[0]], values[node.outputs[0]].elements(step)
    match node.op:
        case ops.Embed(weight=weight) | ops.PositionEmbed(weight=weight):
            return moved + _lookup(weights[weight], step)
        case ops.Linear(activations=activations) | ops.GatedLinear(activations=activations):
            products = _products(node.op, weights) * first.elements(step) // first.width
            return moved + _weights(node.op, weights) + _multiply(products, activations)
        case ops.Attention() as attention:
            return moved + _attention(attention, step)
        case op:
            return moved + _weights(op, weights) + Cost(operations_f32=per_element(op) * elements)


def _lookup(table: Stored, step: StepShape) -> Cost:
    """One row of the table per token."""
    row_bytes = table.size_bytes // table.shape[0]
    return Cost(bytes_weights=row_bytes * step.row_count)


def _weights(op: ops.Op, weights: Mapping[str, Stored]) -> Cost:
    """Every weight once, however many rows use it."""
    return Cost(bytes_weights=sum(weights[name].size_bytes for name in weights_of(op)))


def _products(op: ops.Linear | ops.GatedLinear, weights: Mapping[str, Stored]) -> int:
    """Multiply-adds per row."""
    names = op.weights if isinstance(op, ops.Linear) else (op.gate, op.up)
    return sum(weights[name].shape[0] * weights[name].shape[1] for name in names)


def _multiply(products: int, activations: ops.Activations) -> Cost:
    if activations.bits == 8:
        return Cost(operations_int8=2 * products)
    if activations.bits == 16:
        return Cost(operations_bf16=2 * products)
    return Cost(operations_f32=2 * products)


def _attention(op: ops.Attention, step: StepShape) -> Cost:
    """Every visible key and value read once, the new ones written; two products per pair."""
    position_bytes = kv_position_bytes(step.kv, op.kv_heads, op.head_dim)
    positions = pairs = 0
    for rows, context in zip(step.rows, step.contexts, strict=True):
        positions += visible_positions(rows, context, op.window) + rows
        pairs += attended_pairs(rows, context, op.window)
    return Cost(
        bytes_kv=positions * position_bytes,
        operations_f32=4 * op.heads * op.head_dim * pairs,
    )


def visible_positions(rows: int, context: int, window: int | None) -> int:
    """How many positions at least one of the rows attends to."""
    end = context + rows
    return end if window is None else min(end, window + rows - 1)


def attended_pairs(rows: int, context: int, window: int | None) -> int:
    """How many (row, position) pairs are attended to: position p sees p + 1, at most `window`.

    >>> attended_pairs(rows=3, context=0, window=None)  # 1 + 2 + 3
    6
    """
    if window is None or context + rows <= window:
        return rows * context + rows * (rows + 1) // 2
    growing = max(0, window - context)  # rows that still see everything before them
    return attended_pairs(growing, context, None) + (rows - growing) * window


def per_element(op: ops.Op) -> int:
    """Operations per output element of an element-wise operation or norm; an exponential counts 10.

    Rough on purpose: these operations are bound by memory on every machine.
    """
    match op:
        case ops.Norm(kind=kind):
            return 4 if kind == "rms" else 7
        case ops.AddNorm(norm=norm):
            return 1 + per_element(norm)
        case ops.Rotary():
            return 3
        case ops.Gate() | ops.Activate() | ops.SoftCap():
            return 12
        case ops.Add() | ops.Scale() | ops.Shift():
            return 1
        case _:
            return 0


def kv_token_bytes(graph: Graph, kv: KVType) -> int:
    """Bytes of keys and values that one more token occupies, all layers together."""
    return sum(kv_position_bytes(kv, a.kv_heads, a.head_dim) for a in graph.attentions)


def predict_s(cost: Cost, ceilings: Ceilings) -> float:
    """The least seconds it can take: the roofline of the measured ceilings, at their medians.

    Weights and cached keys come from memory, activations from the shared cache; moving and
    computing overlap, so the longer of the two counts.
    """
    moving = (cost.bytes_weights + cost.bytes_kv) / ceilings.dram.median
    moving += cost.bytes_activations / ceilings.cache.median
    return max(moving, compute_s(cost, ceilings))


def compute_s(cost: Cost, ceilings: Ceilings) -> float:
    """The seconds that the arithmetic alone takes at its ceilings."""
    return (
        cost.operations_int8 / ceilings.int8.median
        + cost.operations_bf16 / ceilings.bf16.median
        + cost.operations_f32 / ceilings.f32.median
    )

"""What a recipe would make of a model, without making it: formats, bytes, speed, time, memory.

Passes are run on outlines, tensors with shapes and formats but no values. Speeds are predictions
of `graph.cost` under this machine's ceilings, never measurements.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from slipstream.compress.carry_out import memory_needed
from slipstream.compress.chain import Chain
from slipstream.compress.passes.mixed import Mixed
from slipstream.compress.passes.pruners import Wanda
from slipstream.compress.passes.rounding import Rounding
from slipstream.compress.passes.sensitivity import PROBE_TOKENS
from slipstream.compress.passes.signround import SignRound
from slipstream.compress.passes.trained import Trained, numbers_of, training_bytes
from slipstream.compress.recipe import format_label
from slipstream.compress.work import Edition, Pass, outlined, roles_of
from slipstream.formats.tensor import DenseTensor, Tensor
from slipstream.graph.cost import StepShape, predict_s, step_cost
from slipstream.graph.graph import Graph
from slipstream.graph.passes.activations import assign_activations
from slipstream.machine import Ceilings

CONTEXT = 512  # positions behind the token whose decoding is predicted
# Of finding a grid and its codes, a weight: SmolLM2's blocks, int4 g64 to nearest, took 12 ns a
# weight on one thread of Zen 3, files included; its ceiling is 51 GFLOP/s.
ROUNDING_OPERATIONS = 240.0
EFFICIENCY = 0.4  # share of the float ceiling that capture and rounding reach: of SmolLM2's runs


@dataclass(frozen=True)
class Row:
    """One matrix: what it is and what it becomes. A weight that goes has no `after`."""

    weight: str
    before: str
    after: str
    bytes_before: int
    bytes_after: int


@dataclass(frozen=True)
class Preview:
    """The whole model. Speeds in tokens per second, one stream; None without ceilings."""

    rows: tuple[Row, ...]
    bytes_before: int
    bytes_after: int
    speed_before: float | None
    speed_after: float | None
    memory_bytes: int
    seconds: float | None


def preview(chain: Chain, edition: Edition, ceilings: Ceilings | None) -> Preview:
    """Outlines every pass in order. Refusals of passes are raised as they would be later."""
    before = outlined(edition)
    after = before
    operations = 0.0
    needed = 0
    tokens = chain.calibration.tokens if chain.calibrated else 0
    for one in chain.passes:
        if one.calibrated:
            operations += calibration_operations(after, tokens, whole=not isinstance(one, Wanda))
        operations += method_operations(one, after)
        if isinstance(one, Trained):
            operations += training_operations(before, after, one)
            needed = max(needed, training_bytes(before, after, one))
        after = one.outline(after)
    shapes = {name: before.weights[name].shape for name in before.graph.weight_names()}
    speed = None if ceilings is None else ceilings.f32.median * EFFICIENCY
    return Preview(
        rows=rows_of(before, after),
        bytes_before=size_of(before),
        bytes_after=size_of(after),
        speed_before=predicted_speed(before, ceilings),
        speed_after=predicted_speed(after, ceilings),
        memory_bytes=max(needed, memory_needed(before.graph, shapes, tokens)),
        seconds=None if speed is None else operations / speed,
    )


def size_of(edition: Edition) -> int:
    """Bytes of all tensors that the graph reads."""
    return sum(edition.weights[name].size_bytes for name in edition.graph.weight_names())


def rows_of(before: Edition, after: Edition) -> tuple[Row, ...]:
    """Every matrix of either model; names that only one has stand alone."""
    names = dict.fromkeys((*roles_of(before.graph), *roles_of(after.graph)))
    listed = []
    for name in names:
        old = _tensor(before, name)
        new = _tensor(after, name)
        listed.append(
            Row(
                name,
                "" if old is None else label_of(old),
                "" if new is None else label_of(new),
                0 if old is None else old.size_bytes,
                0 if new is None else new.size_bytes,
            )
        )
    return tuple(listed)


def label_of(tensor: Tensor) -> str:
    """``576×1536 float32`` or ``576×1536 int4 g64``."""
    shape = "×".join(str(side) for side in tensor.shape)
    kind = (
        str(tensor.data.dtype) if isinstance(tensor, DenseTensor) else format_label(tensor.format)
    )
    return f"{shape} {kind}"


def predicted_speed(edition: Edition, ceilings: Ceilings | None) -> float | None:
    """Tokens per second of one stream, at the roofline."""
    if ceilings is None:
        return None
    graph: Graph = assign_activations(edition.graph, edition.weights)
    cost = step_cost(graph, edition.weights, StepShape((1,), (CONTEXT,), graph.kv or "bfloat16"))
    return 1 / predict_s(cost, ceilings)


def calibration_operations(edition: Edition, tokens: int, whole: bool = True) -> float:
    """Multiply-adds twice: two runs of every linear; with `whole` the moments of all pairs of
    inputs, and a rounding with feedback.
    """
    total = 0.0
    widths: Mapping[str, tuple[int, ...]] = {
        name: edition.weights[name].shape for name in roles_of(edition.graph)
    }
    for out, width in widths.values():
        total += 2.0 * out * width * 2 * tokens
        if whole:
            total += 2.0 * out * width * 2 * width + 2.0 * width * width * tokens / 3
    return total


def method_operations(one: Pass, edition: Edition) -> float:
    """What a method does beyond its calibration: it searches grids; `mixed` runs the model once
    for each matrix, half of it on average; `signround` multiplies by H in each step.
    """
    shapes = [edition.weights[name].shape for name in roles_of(edition.graph)]
    searched = 0.0
    if isinstance(one, Rounding):
        taken = one.outline(edition).rounded - edition.rounded
        searched = ROUNDING_OPERATIONS * sum(math.prod(edition.weights[n].shape) for n in taken)
    if isinstance(one, Mixed):
        return searched + len(shapes) * PROBE_TOKENS * float(
            sum(out * width for out, width in shapes)
        )
    if isinstance(one, SignRound) and one.scope == "block":  # forward and backward
        return searched + 6.0 * one.steps * one.batch * sum(out * width for out, width in shapes)
    if isinstance(one, SignRound):
        learned = 2.0 * one.steps * float(sum(out * width * width for out, width in shapes))
        return searched + learned
    return searched


def training_operations(teacher: Edition, student: Edition, options: Trained) -> float:
    """Forward and backward of the student, forward of the teacher, for every token."""
    return options.tokens * (6.0 * numbers_of(student) + 2.0 * numbers_of(teacher))


def _tensor(edition: Edition, name: str) -> Tensor | None:
    return edition.weights[name] if name in roles_of(edition.graph) else None

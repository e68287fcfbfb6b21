"""Where the input of some linears can be divided by a vector: in the operation that makes it.

AWQ and SmoothQuant make an input x easier to round by x / s and W · diag(s), which leaves every
product as it was. Whoever writes x absorbs 1 / s: a norm in its gains, the up-projection of a gated
MLP or the value projection of an attention in its rows. Elsewhere nothing can be folded.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slipstream.compress.inputs import InputGroup, linears_by_input
from slipstream.compress.work import Visit
from slipstream.formats.tensor import DenseTensor
from slipstream.graph import ops
from slipstream.graph.graph import Node, weights_of

F32 = NDArray[np.float32]


@dataclass(frozen=True)
class Fold:
    """Linears whose input can be scaled, and the weights that absorb it.

    norm      the norm that writes the input, or None
    rows      the linear whose output rows are divided, with its bias, or None
    repeats   query heads that share one value head: their scales must be equal
    head_dim  of those heads; 0 where every channel stands for itself
    """

    group: InputGroup
    norm: ops.Norm | None = None
    rows: tuple[str, str | None] | None = None
    repeats: int = 1
    head_dim: int = 0

    def shared(self, scale: F32) -> F32:
        """`scale` [I] made equal (by the geometric mean) over channels that share a source row."""
        if self.repeats == 1:
            return scale
        by_head = np.log(scale).reshape(-1, self.repeats, self.head_dim)
        mean = np.exp(by_head.mean(axis=1, keepdims=True))
        return np.broadcast_to(mean, by_head.shape).reshape(-1).astype(np.float32)

    def source_scale(self, scale: F32) -> F32:
        """The scale of each row of the source: one of each set of repeats."""
        if self.repeats == 1:
            return scale
        return scale.reshape(-1, self.repeats, self.head_dim)[:, 0].reshape(-1)


def folds_of(visit: Visit) -> tuple[Fold, ...]:
    """The input groups of a stage that can be scaled, in graph order."""
    nodes = visit.stage.nodes
    writers = {value: node for node in nodes for value in node.outputs}
    uses = _uses(visit)
    found = []
    by_value = linears_by_input(nodes)
    for group, value in zip(visit.groups, by_value, strict=True):
        readers = [node for node in nodes if value in node.inputs]
        only_linears = all(isinstance(node.op, ops.Linear | ops.GatedLinear) for node in readers)
        if not only_linears or value not in writers or any(visit.rounded(n) for n in group.weights):
            continue
        fold = _fold(group, writers[value], writers)
        if fold is not None and all(uses[name] == 1 for name in (*group.weights, *_source(fold))):
            found.append(fold)
    return tuple(found)


def apply(visit: Visit, fold: Fold, scale: F32) -> None:
    """x / scale in the source and W · diag(scale) in the linears; `scale` comes from `shared`."""
    for name in fold.group.weights:
        visit.put_dense(name, visit.dense(name) * scale)
    source = fold.source_scale(scale)
    if fold.norm is not None:
        gains = visit.dense(fold.norm.weight) + np.float32(fold.norm.weight_offset)
        _put_vector(visit, fold.norm.weight, gains / source - np.float32(fold.norm.weight_offset))
        if fold.norm.bias is not None:
            _put_vector(visit, fold.norm.bias, visit.dense(fold.norm.bias) / source)
    if fold.rows is not None:
        weight, bias = fold.rows
        visit.put_dense(weight, visit.dense(weight) / source[:, None])
        if bias is not None:
            _put_vector(visit, bias, visit.dense(bias) / source)


def _put_vector(visit: Visit, name: str, values: F32) -> None:
    """Norm gains and biases stay in float32: they are small, and now carry scales."""
    visit.put(name, DenseTensor(values.astype(np.float32)))


def _fold(group: InputGroup, writer: Node, writers: Mapping[str, Node]) -> Fold | None:
    match writer.op:
        case ops.Norm(heads=1) as norm:
            return Fold(group, norm=norm)
        case ops.Gate():
            return _through(group, writers.get(writer.inputs[1]))
        case ops.Attention(heads=heads, kv_heads=kv_heads, head_dim=head_dim):
            return _through(group, writers.get(writer.inputs[2]), heads // kv_heads, head_dim)
        case _:
            return None


def _through(
    group: InputGroup, source: Node | None, repeats: int = 1, head_dim: int = 0
) -> Fold | None:
    """Through the rows of a linear with one matrix."""
    if source is None or not isinstance(source.op, ops.Linear) or len(source.op.weights) != 1:
        return None
    return Fold(
        group, rows=(source.op.weights[0], source.op.biases[0]), repeats=repeats, head_dim=head_dim
    )


def _source(fold: Fold) -> Sequence[str]:
    named = [] if fold.norm is None else list(weights_of(fold.norm))
    return [*named, *(name for name in fold.rows or () if name is not None)]


def _uses(visit: Visit) -> dict[str, int]:
    """How many operations of the whole graph read each weight: shared ones cannot be folded."""
    uses: dict[str, int] = {}
    for node in visit.edition.graph:
        for name in weights_of(node.op):
            uses[name] = uses.get(name, 0) + 1
    return uses

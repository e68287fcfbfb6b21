"""How the inputs of linears are stored: float32, bfloat16, or int8 with a scale per group.

Backends call `assign_activations` before they fuse. It decides by what the weights are, what the
checkpoint asks for and what the user chose, and changes nothing but `Linear.activations`.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import ml_dtypes

from slipstream.formats.tensor import DenseTensor, Quantized, Tensor
from slipstream.graph import ops
from slipstream.graph.graph import Graph, Node
from slipstream.graph.ops import Activations

Choice = Literal["auto", "f32", "bf16", "int8"]

FLOAT = Activations()
BFLOAT = Activations(16)
GROUP = 32  # inputs per scale; the smallest group that GGUF's types use for whole blocks


def assign_activations(
    graph: Graph,
    weights: Mapping[str, Tensor],
    choice: Choice = "auto",
    settings: Mapping[str, Activations] | None = None,
) -> Graph:
    """The graph with `activations` of every linear decided.

    f32   no linear rounds its input.
    bf16  linears of bfloat16 weights round it to bfloat16; all others keep float32.
    int8  linears of quantized weights round it to int8 (dense weights never do).
    auto  what `settings` says of the weight (a checkpoint's own wish), else what the graph says,
          else as int8.
    """
    asked = settings or {}
    nodes = tuple(_assigned(node, weights, choice, asked) for node in graph.nodes)
    return replace(graph, nodes=nodes)


def _assigned(
    node: Node,
    weights: Mapping[str, Tensor],
    choice: Choice,
    settings: Mapping[str, Activations],
) -> Node:
    match node.op:
        case ops.Linear(weights=names):
            pass
        case ops.GatedLinear(gate=gate, up=up):
            names = (gate, up)
        case _:
            return node
    decided = _decide(node.op.activations, names, weights, choice, settings)
    return replace(node, op=replace(node.op, activations=decided))


def _decide(
    present: Activations,
    names: tuple[str, ...],
    weights: Mapping[str, Tensor],
    choice: Choice,
    settings: Mapping[str, Activations],
) -> Activations:
    tensors = [weights[name] for name in names]
    if choice == "bf16":
        return BFLOAT if all(_is_bfloat16(tensor) for tensor in tensors) else FLOAT
    affine = [tensor for tensor in tensors if isinstance(tensor, Quantized)]
    if choice == "f32" or len(affine) < len(tensors):
        return FLOAT
    if choice == "auto":
        asked = {settings[name] for name in names if name in settings}
        if len(asked) == 1:
            return asked.pop()
        if present != FLOAT:
            return present
    return _int8(affine)


def _is_bfloat16(tensor: Tensor) -> bool:
    return isinstance(tensor, DenseTensor) and tensor.data.dtype == ml_dtypes.bfloat16


def _int8(tensors: list[Quantized]) -> Activations:
    """int8 in groups that divide, or are divided by, the groups of every weight."""
    width = tensors[0].shape[1]
    groups = [tensor.format.group or width for tensor in tensors]
    if width % GROUP == 0 and all(g % GROUP == 0 or GROUP % g == 0 for g in groups):
        return Activations(8, GROUP)
    if len(set(groups)) == 1:
        return Activations(8, groups[0])
    return Activations(8, None)

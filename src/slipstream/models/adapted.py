"""What compression may have made of an architecture: layers that share weights, factored matrices.

The section "slipstream" of a config says so; other software does not know it. Layers of different
sizes are in that section too, and are read with the sizes (`models.config`).

    "slipstream": {"shares": [0, 0, 2, 2],                      layer 1 runs with layer 0's weights
                   "low_rank": {"model.layers.0.mlp.up_proj.weight": 128}}       W = B · A, rank 128
"""

import re
from collections.abc import Mapping
from dataclasses import replace

from slipstream.errors import FileFormatError
from slipstream.graph import ops
from slipstream.graph.graph import Graph, Node, weights_of
from slipstream.models.blocks import Blueprint
from slipstream.models.config import Config

KNOWN = frozenset({"layers", "shares", "low_rank"})

_LAYER = re.compile(r"model\.layers\.(\d+)\.(.*)")


def adapted(blueprint: Blueprint, config: Config) -> Blueprint:
    """The blueprint as the section changes it; FileFormatError for entries that fit nothing."""
    section = config.section("slipstream")
    for name in section.values:
        if name not in KNOWN:
            raise FileFormatError(f"{section.where}: {name} is not known to this Slipstream")
    if section.has("shares"):
        blueprint = _shared(blueprint, section)
    if section.has("low_rank"):
        blueprint = _factored(blueprint, section)
    return blueprint


def factor_names(weight: str) -> tuple[str, str]:
    """The names of A [r, in] and B [out, r] that stand for a matrix: W = B · A."""
    stem = weight.removesuffix(".weight")
    return f"{stem}.a.weight", f"{stem}.b.weight"


def _shared(blueprint: Blueprint, section: Config) -> Blueprint:
    """Each layer's weights under the names of the layer that it shares with."""
    count = len(blueprint.graph.attentions)
    sources = section.choices("shares", count, {i: i for i in range(count)})
    for layer, source in enumerate(sources):
        if source > layer or sources[source] != source:
            raise FileFormatError(f"{section.where}: layer {layer} cannot share with {source}")

    def renamed(name: str) -> str:
        match = _LAYER.fullmatch(name)
        return name if match is None else f"model.layers.{sources[int(match[1])]}.{match[2]}"

    nodes = tuple(replace(node, op=rename(node.op, renamed)) for node in blueprint.graph)
    shapes: dict[str, tuple[int, ...]] = {}
    for name, shape in blueprint.shapes.items():
        if shapes.setdefault(renamed(name), shape) != shape:
            raise FileFormatError(f"{section.where}: {name} cannot be shared, its shape differs")
    return replace(blueprint, graph=replace(blueprint.graph, nodes=nodes), shapes=shapes)


def rename(op: ops.Op, renamed: Mapping[str, str] | object) -> ops.Op:
    """The operation with its weights under other names; `renamed` is a function of one name."""
    assert callable(renamed)

    def optional(name: str | None) -> str | None:
        return None if name is None else str(renamed(name))

    match op:
        case ops.Embed(weight=weight) | ops.PositionEmbed(weight=weight):
            return replace(op, weight=renamed(weight))
        case ops.Norm(weight=weight, bias=bias):
            return replace(op, weight=renamed(weight), bias=optional(bias))
        case ops.Linear(weights=weights, biases=biases):
            names = tuple(renamed(name) for name in weights)
            return replace(op, weights=names, biases=tuple(optional(bias) for bias in biases))
        case _:
            assert not weights_of(op), "pages write no fused operations"
            return op


def _factored(blueprint: Blueprint, section: Config) -> Blueprint:
    """Two linears in place of each matrix that has a rank."""
    ranks = section.section("low_rank")
    shapes = dict(blueprint.shapes)
    nodes: list[Node] = []
    left = set(ranks.values)
    for node in blueprint.graph:
        weights = node.op.weights if isinstance(node.op, ops.Linear) else ()
        if len(weights) != 1 or weights[0] not in ranks.values:
            nodes.append(node)
            continue
        left.discard(weights[0])
        assert isinstance(node.op, ops.Linear)
        out, width = blueprint.shapes[weights[0]]
        rank = ranks.integer(weights[0], most=min(out, width))
        first, second = factor_names(weights[0])
        shapes.pop(weights[0], None)
        shapes[first], shapes[second] = (rank, width), (out, rank)
        inner = f"{node.outputs[0]}.factor"
        nodes.append(
            Node(f"{node.name}.factor", ops.Linear((first,), (None,)), node.inputs, (inner,))
        )
        nodes.append(replace(node, op=replace(node.op, weights=(second,)), inputs=(inner,)))
    if left:
        raise FileFormatError(f"{ranks.where}: {min(left)} is no matrix of this model")
    graph: Graph = replace(blueprint.graph, nodes=tuple(nodes))
    graph.check()
    return replace(blueprint, graph=graph, shapes=shapes)

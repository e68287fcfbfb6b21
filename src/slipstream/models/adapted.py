"""What compression may have made of an architecture: shared weights, factors, rounded keys.

The section "slipstream" of a config says so; other software does not know it. Layers of different
sizes are in that section too, and are read with the sizes (`models.config`).

    "slipstream": {"shares": [0, 0, 2, 2],                      layer 1 runs with layer 0's weights
                   "correction_rank": 16,                       and adds B · A · x of its own
                   "low_rank": {"model.layers.0.mlp.up_proj.weight": 128},       W = B · A, rank 128
                   "kv": "int8",                      how keys and values are stored (`formats.kv`)
                   "kv_centered": true}      each layer's keys are less a vector that it stores
"""

import re
from collections.abc import Mapping
from dataclasses import replace

from slipstream.errors import FileFormatError
from slipstream.formats.kv import KV_FORMATS
from slipstream.graph import ops
from slipstream.graph.graph import Graph, Node, weights_of
from slipstream.models.blocks import Blueprint
from slipstream.models.config import Config

KNOWN = frozenset({"layers", "shares", "correction_rank", "low_rank", "kv", "kv_centered"})

_LAYER = re.compile(r"model\.layers\.(\d+)\.(.*)")


def adapted(blueprint: Blueprint, config: Config) -> Blueprint:
    """The blueprint as the section changes it; FileFormatError for entries that fit nothing."""
    section = config.section("slipstream")
    for name in section.values:
        if name not in KNOWN:
            raise FileFormatError(f"{section.where}: {name} is not known to this Slipstream")
    if section.has("shares"):
        blueprint = _shared(blueprint, section)
    elif section.has("correction_rank"):
        raise FileFormatError(f"{section.where}: correction_rank goes with shares")
    if section.has("low_rank"):
        blueprint = _factored(blueprint, section)
    if section.has("kv"):
        blueprint = _stored_keys(blueprint, section)
    if section.has("kv_centered") and section.flag("kv_centered", False):
        blueprint = _centered(blueprint, section)
    return blueprint


def _stored_keys(blueprint: Blueprint, section: Config) -> Blueprint:
    kv = section.values["kv"]
    if kv not in KV_FORMATS:
        known = ", ".join(KV_FORMATS)
        raise FileFormatError(f"{section.where}: kv is one of {known}, not {kv!r}")
    return replace(blueprint, graph=replace(blueprint.graph, kv=kv))


def key_shift_name(layer: int) -> str:
    """The name of the vector that is added to a layer's keys."""
    return f"model.layers.{layer}.self_attn.key_shift"


def _centered(blueprint: Blueprint, section: Config) -> Blueprint:
    """Keys lose a constant on their way to the cache: each query's scores all move by the same,
    which no softmax sees. FileFormatError where scores are capped, which would see it.
    """
    nodes: list[Node] = []
    shapes = dict(blueprint.shapes)
    for node in blueprint.graph:
        op = node.op
        if not isinstance(op, ops.Attention):
            nodes.append(node)
            continue
        if op.soft_cap is not None:
            raise FileFormatError(f"{section.where}: kv_centered does not go with capped scores")
        name, value = key_shift_name(op.layer), f"{node.inputs[1]} centered"
        shapes[name] = (op.kv_heads * op.head_dim,)
        nodes.append(Node(f"{node.name}.key_shift", ops.Shift(name), (node.inputs[1],), (value,)))
        nodes.append(replace(node, inputs=(node.inputs[0], value, node.inputs[2])))
    graph = replace(blueprint.graph, nodes=tuple(nodes))
    graph.check()
    return replace(blueprint, graph=graph, shapes=shapes)


def factor_names(weight: str) -> tuple[str, str]:
    """The names of A [r, in] and B [out, r] that stand for a matrix: W = B · A."""
    stem = weight.removesuffix(".weight")
    return f"{stem}.a.weight", f"{stem}.b.weight"


def correction_names(weight: str) -> tuple[str, str]:
    """The names of A [r, in] and B [out, r] by which a layer's matrix differs from the shared."""
    stem = weight.removesuffix(".weight")
    return f"{stem}.correction.a.weight", f"{stem}.correction.b.weight"


def _shared(blueprint: Blueprint, section: Config) -> Blueprint:
    """Each layer's weights under the names of the layer that it shares with."""
    count = len(blueprint.graph.attentions)
    sources = section.choices("shares", count, {i: i for i in range(count)})
    for layer, source in enumerate(sources):
        if source > layer or sources[source] != source:
            raise FileFormatError(f"{section.where}: layer {layer} cannot share with {source}")

    def renamed(name: str) -> str:
        match = None if ".correction." in name else _LAYER.fullmatch(name)
        return name if match is None else f"model.layers.{sources[int(match[1])]}.{match[2]}"

    shapes: dict[str, tuple[int, ...]] = {}
    nodes = [replace(node, op=rename(node.op, renamed)) for node in blueprint.graph]
    own_shapes = dict(blueprint.shapes)
    if section.has("correction_rank"):
        rank = section.integer("correction_rank")
        alone = {source for source in sources if sources.count(source) == 1}
        pairs = zip(blueprint.graph, nodes, strict=True)
        nodes = [
            each
            for before, after in pairs
            for each in _corrected(before, after, own_shapes, rank, alone)
        ]
    for name, shape in own_shapes.items():
        if shapes.setdefault(renamed(name), shape) != shape:
            raise FileFormatError(f"{section.where}: {name} cannot be shared, its shape differs")
    graph = replace(blueprint.graph, nodes=tuple(nodes))
    graph.check()
    return replace(blueprint, graph=graph, shapes=shapes)


def _corrected(
    own: Node, shared: Node, shapes: dict[str, tuple[int, ...]], rank: int, alone: set[int]
) -> list[Node]:
    """x · Wᵀ + (x · Aᵀ) · Bᵀ for a matrix that layers share; notes the shapes of A and B.

    own  the node with its layer's own name for W, shared: with the name that is read
    """
    weight = corrected_weight(own)
    if weight is None or int(own.name.split(".")[1]) in alone:
        return [shared]
    out, width = shapes[weight]
    first, second = correction_names(weight)
    shapes[first], shapes[second] = (rank, width), (out, rank)
    (result,) = own.outputs
    main, inner, change = (f"{result}.{part}" for part in ("shared", "inner", "correction"))
    return [
        replace(shared, outputs=(main,)),
        Node(f"{own.name}.a", ops.Linear((first,), (None,)), own.inputs, (inner,)),
        Node(f"{own.name}.b", ops.Linear((second,), (None,)), (inner,), (change,)),
        Node(f"{own.name}.corrected", ops.Add(), (main, change), (result,)),
    ]


def corrected_weight(node: Node) -> str | None:
    """The matrix of a layer's linear that a correction can stand beside; None for other nodes."""
    if not isinstance(node.op, ops.Linear) or not node.name.startswith("layers."):
        return None
    weight = node.op.weights[0]
    return None if "[" in weight or weight.endswith(".T") else weight


def rename(op: ops.Op, renamed: Mapping[str, str] | object) -> ops.Op:
    """The operation with its weights under other names; `renamed` is a function of one name."""
    assert callable(renamed)

    def optional(name: str | None) -> str | None:
        return None if name is None else str(renamed(name))

    match op:
        case ops.Embed(weight=weight) | ops.PositionEmbed(weight=weight) | ops.Shift(weight=weight):
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

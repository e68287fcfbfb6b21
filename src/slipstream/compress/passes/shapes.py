"""A model with fewer heads, neurons, channels or blocks: its config, graph and weights.

Structured pruning chooses what to keep; this makes the smaller model of it. The graph is never cut
by hand: it is built from the new config, so that what was measured is what will be loaded. Weights
are cut when they are read.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slipstream.compress.store import release
from slipstream.compress.work import Edition
from slipstream.errors import UnsupportedError
from slipstream.formats.tensor import DenseTensor, Quantized, Tensor, map_arrays
from slipstream.graph import ops
from slipstream.graph.graph import Graph, Node, weights_of
from slipstream.models.registry import blueprint_of

Kept = NDArray[np.intp]  # indices in ascending order

# The axes of each weight by the end of its node's name: rows, then inputs.
AXES: dict[str, tuple[str, ...]] = {
    "embed": ("", "width"),
    "head": ("", "width"),
    "attention.query": ("query", "width"),
    "attention.key": ("kv", "width"),
    "attention.value": ("kv", "width"),
    "attention.output": ("width", "query"),
    "attention.query_norm": ("query",),
    "attention.key_norm": ("kv",),
    "mlp.gate": ("neurons", "width"),
    "mlp.up": ("neurons", "width"),
    "mlp.down": ("width", "neurons"),
}


@dataclass(frozen=True)
class Layer:
    """What a layer keeps: numbers of key/value heads and of MLP neurons."""

    source: int  # the layer's number in the model it comes from
    kv_heads: Kept
    neurons: Kept


@dataclass(frozen=True)
class Plan:
    """What the whole model keeps; `width` are channels of the residual stream."""

    layers: tuple[Layer, ...]
    width: Kept


def whole_plan(edition: Edition) -> Plan:
    """Everything is kept."""
    layers = tuple(
        Layer(number, np.arange(attention.kv_heads), np.arange(neurons_of(edition, number)))
        for number, attention in enumerate(edition.graph.attentions)
    )
    return Plan(layers, np.arange(edition.graph.width))


def neurons_of(edition: Edition, layer: int) -> int:
    """The width of a layer's MLP."""
    return edition.weights[down_weight(edition.graph, layer)].shape[1]


def down_weight(graph: Graph, layer: int) -> str:
    """The matrix that reads the MLP's neurons."""
    return weights_of(_node(graph, f"layers.{layer}.mlp.down").op)[0]


def output_weight(graph: Graph, layer: int) -> str:
    """The matrix that reads the heads."""
    return weights_of(_node(graph, f"layers.{layer}.attention.output").op)[0]


def reduced(edition: Edition, plan: Plan) -> Edition:
    """The smaller edition. UnsupportedError where layers cannot take each other's place."""
    config = reduced_config(edition, plan)
    graph = blueprint_of(config).graph
    _check_same_kinds(edition.graph, graph, plan)
    weights = CutWeights(edition, graph, plan)
    rounded = frozenset(name for name in weights if weights.origin[name] in edition.rounded)
    return replace(edition, config=config, graph=graph, weights=weights, rounded=rounded)


def reduced_config(edition: Edition, plan: Plan) -> dict[str, Any]:
    """Plain fields where all layers are alike; else the section "slipstream" lists each."""
    config = dict(edition.config)
    if "num_hidden_layers" not in config:
        raise UnsupportedError("a config without num_hidden_layers cannot be made smaller")
    before = len(edition.graph.attentions)
    attention = edition.graph.attentions[0]
    sources = [layer.source for layer in plan.layers]
    for name, value in edition.config.items():
        if isinstance(value, list) and len(value) == before and before > 1:
            config[name] = [value[source] for source in sources]
    repeats = attention.heads // attention.kv_heads
    sizes = [
        {
            "heads": len(layer.kv_heads) * repeats,
            "kv_heads": len(layer.kv_heads),
            "mlp_width": len(layer.neurons),
        }
        for layer in plan.layers
    ]
    config |= {
        "num_hidden_layers": len(plan.layers),
        "hidden_size": len(plan.width),
        "head_dim": attention.head_dim,
        "num_attention_heads": max(size["heads"] for size in sizes),
        "num_key_value_heads": max(size["kv_heads"] for size in sizes),
        "intermediate_size": max(size["mlp_width"] for size in sizes),
    }
    section = {k: v for k, v in dict(config.get("slipstream") or {}).items() if k != "layers"}
    if section:
        raise UnsupportedError(
            "a model with shared or factored layers, or with a format of its keys, cannot be made "
            "smaller: prune before share_layers, low_rank and kv_cache"
        )
    if any(size != sizes[0] for size in sizes):
        section["layers"] = sizes
    config.pop("slipstream", None)
    return {**config, **({"slipstream": section} if section else {})}


class CutWeights(Mapping[str, Tensor]):
    """The weights of the smaller graph, cut from the larger when read.

    `origin` tells for each the weight that it is cut from.
    """

    def __init__(self, edition: Edition, graph: Graph, plan: Plan) -> None:
        self.weights = edition.weights
        self.origin: dict[str, str] = {}
        self.cuts: dict[str, tuple[Kept | None, ...]] = {}
        nodes = {node.name: node for node in edition.graph}
        for node in graph:
            layer = _layer_of(node, plan)
            source = nodes[_source_name(node, layer)]
            names = zip(weights_of(node.op), weights_of(source.op), strict=True)
            for name, origin in names:
                self.origin[name] = origin
                shape = tuple(edition.weights[origin].shape)
                self.cuts[name] = _cut(node, shape, edition.graph, plan, layer)

    def __getitem__(self, name: str) -> Tensor:
        tensor = self.weights[self.origin[name]]
        return cut(tensor, self.cuts[name])

    def release(self) -> None:
        """Of the larger model."""
        release(self.weights)

    def __iter__(self) -> Iterator[str]:
        return iter(self.origin)

    def __len__(self) -> int:
        return len(self.origin)


def cut(tensor: Tensor, kept: Sequence[Kept | None]) -> Tensor:
    """Some rows and inputs of a tensor. A quantized one whose inputs are cut becomes dense."""
    if all(indices is None for indices in kept):
        return tensor
    if isinstance(tensor, Quantized) and kept[1] is None and kept[0] is not None:
        rows = kept[0]
        return map_arrays(tensor, lambda array: array[rows])
    data = tensor.data if isinstance(tensor, DenseTensor) else tensor.dequantize()
    for axis, indices in enumerate(kept):
        if indices is not None:
            data = np.take(data, indices, axis=axis)
    return DenseTensor(data)


def _cut(
    node: Node, shape: tuple[int, ...], graph: Graph, plan: Plan, layer: Layer | None
) -> tuple[Kept | None, ...]:
    """Which indices of each axis stay; None: all."""
    end = _end_of(node)
    if isinstance(node.op, ops.Norm) and end not in AXES:
        axes: tuple[str, ...] = ("width",)
    elif end in AXES:
        axes = AXES[end][: len(shape)]
    else:
        raise UnsupportedError(f"{node.name} of {graph.architecture} cannot be made smaller")
    kept = tuple(
        _indices(axis, size, graph, plan, layer) for axis, size in zip(axes, shape, strict=True)
    )
    return tuple(
        k if k is None or len(k) < size else None for k, size in zip(kept, shape, strict=True)
    )


def _indices(axis: str, size: int, graph: Graph, plan: Plan, layer: Layer | None) -> Kept | None:
    if axis == "width":
        return plan.width
    if layer is None or not axis:
        return None
    if axis == "neurons":
        return layer.neurons
    attention = graph.attentions[layer.source]
    if size == attention.head_dim:  # one norm for all heads
        return None
    repeats = attention.heads // attention.kv_heads if axis == "query" else 1
    return channels_of(layer.kv_heads, repeats * attention.head_dim)


def channels_of(kept: Kept, each: int) -> Kept:
    """The channels of the kept heads, `each` of them consecutive."""
    return (kept[:, None] * each + np.arange(each)).reshape(-1)


def _layer_of(node: Node, plan: Plan) -> Layer | None:
    parts = node.name.split(".")
    return plan.layers[int(parts[1])] if parts[0] == "layers" else None


def _source_name(node: Node, layer: Layer | None) -> str:
    return node.name if layer is None else f"layers.{layer.source}.{_end_of(node)}"


def _end_of(node: Node) -> str:
    return ".".join(node.name.split(".")[2:]) if node.name.startswith("layers.") else node.name


def _node(graph: Graph, name: str) -> Node:
    try:
        return graph.node(name)
    except KeyError:
        raise UnsupportedError(f"{graph.architecture} has no {name} to prune") from None


def _check_same_kinds(before: Graph, after: Graph, plan: Plan) -> None:
    """Windows, rotary bases and the like must have moved with their layers."""
    for number, layer in enumerate(plan.layers):
        old, new = before.attentions[layer.source], after.attentions[number]
        same = replace(new, layer=old.layer, heads=old.heads, kv_heads=old.kv_heads) == old
        turned = [_rotary(graph, at) for graph, at in ((before, layer.source), (after, number))]
        if not same or turned[0] != turned[1]:
            raise UnsupportedError(
                f"layers of {before.architecture} differ by their number, so none can be taken out"
            )


def _rotary(graph: Graph, layer: int) -> tuple[tuple[float, ...], float] | None:
    for node in graph:
        if node.name == f"layers.{layer}.attention.query_rotary":
            assert isinstance(node.op, ops.Rotary)
            return node.op.frequencies, node.op.attention_factor
    return None

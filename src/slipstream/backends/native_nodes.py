"""Hands a graph to the C++ builder, node by node.

`backends.native` calls `add_nodes`. Nothing is decided here: each operation of the menu has one
method of the builder, which checks what it is given.
"""

from typing import Any, assert_never

import numpy as np

from slipstream.backends.native_module import NativeHandle
from slipstream.backends.native_weights import PackedWeights
from slipstream.graph import ops
from slipstream.graph.graph import Graph, Node


def add_nodes(builder: Any, graph: Graph, weights: PackedWeights) -> NativeHandle:
    """The C++ program of `graph`; uses up the builder. ValueError when shapes do not agree."""
    compiler = _Compiler(builder, weights)
    for number, node in enumerate(graph):
        builder.begin_node(number)
        outputs = compiler.add(node)
        compiler.values.update(zip(node.outputs, outputs, strict=True))
    last = graph.nodes[-1].outputs[0]
    handle: NativeHandle = builder.finish(compiler.values[last], graph.vocabulary)
    return handle


class _Compiler:
    """The builder, and the numbers it has given to values and vectors."""

    def __init__(self, builder: Any, weights: PackedWeights) -> None:
        self.builder = builder
        self.weights = weights
        self.values: dict[str, int] = {}
        self.vectors: dict[tuple[str, float], int] = {}

    def add(self, node: Node) -> tuple[int, ...]:
        """Adds the node's operation; returns the numbers of its outputs."""
        inputs = [self.values[name] for name in node.inputs if name != "ids"]
        match node.op:
            case ops.Linear():
                return tuple(self._linear(node.op, *inputs))
            case ops.AddNorm(norm=norm):
                weight, bias = self._norm_weights(norm)
                layer = norm.kind == "layer"
                return tuple(self.builder.add_norm(*inputs, layer, norm.eps, weight, bias))
            case _:
                return (self._add_single(node.op, inputs),)

    def _add_single(self, op: ops.Op, inputs: list[int]) -> Any:  # the number of its output
        builder: Any = self.builder
        matrices = self.weights.matrices
        match op:
            case ops.Embed():
                return builder.embed(matrices[op.weight], op.scale)
            case ops.PositionEmbed():
                return builder.position_embed(*inputs, matrices[op.weight], op.offset)
            case ops.Norm():
                weight, bias = self._norm_weights(op)
                return builder.norm(*inputs, op.kind == "layer", op.heads, op.eps, weight, bias)
            case ops.GatedLinear():
                gate, up = matrices[op.gate], matrices[op.up]
                return builder.gated_linear(*inputs, gate, up, op.kind, *_rounding(op.activations))
            case ops.Rotary():
                factor = op.attention_factor
                return builder.rotary(*inputs, op.heads, op.head_dim, op.frequencies, factor)
            case ops.Attention():
                heads = (op.heads, op.kv_heads, op.head_dim)
                return builder.attention(
                    *inputs, *heads, op.scale, op.window or 0, op.soft_cap or 0.0
                )
            case ops.Activate():
                return builder.activate(*inputs, op.kind)
            case ops.Gate():
                return builder.gate(*inputs, op.kind)
            case ops.Add():
                return builder.add(*inputs)
            case ops.Scale():
                return builder.scale(*inputs, op.factor)
            case ops.Shift():
                return self._shift(op, *inputs)
            case ops.SoftCap():
                return builder.soft_cap(*inputs, op.cap)
            case ops.Select():
                return builder.select(*inputs)
            case ops.Linear() | ops.AddNorm():
                raise AssertionError("operations of several outputs are handled by add")
        assert_never(op)

    def _shift(self, op: ops.Shift, x: int) -> Any:
        """A row of the vector is what a norm with weights of zero adds; it costs next to nothing
        beside a product, and needs no kernel of its own.
        """
        values = self.weights.vectors[op.weight]
        zeros = self.builder.add_vector(np.zeros_like(values))
        row = self.builder.norm(x, True, 1, 1.0, zeros, self._vector(op.weight))
        return self.builder.add(x, row)

    def _linear(self, op: ops.Linear, x: int) -> list[int]:
        matrices = [self.weights.matrices[name] for name in op.weights]
        biases = [-1 if name is None else self._vector(name) for name in op.biases]
        outputs: list[int] = self.builder.linear(x, matrices, biases, *_rounding(op.activations))
        return outputs

    def _norm_weights(self, norm: ops.Norm) -> tuple[int, int]:
        bias = -1 if norm.bias is None else self._vector(norm.bias)
        return self._vector(norm.weight, norm.weight_offset), bias

    def _vector(self, name: str, offset: float = 0.0) -> int:
        """A norm's weight (plus its offset) or a bias, in float32."""
        if (name, offset) not in self.vectors:
            values = self.weights.vectors[name] + np.float32(offset)
            self.vectors[name, offset] = self.builder.add_vector(values)
        return self.vectors[name, offset]


def _rounding(activations: ops.Activations) -> tuple[int | float, ...]:
    """(bits, group), with group 0 for a whole row; and the scale where it is fixed."""
    found = activations.bits, activations.group or 0
    return found if activations.scale is None else (*found, activations.scale)

"""Hands a graph and its weights to the C++ builder, node by node.

`backends.native` calls `build_program`. Nothing is decided here: each operation of the menu has
one method of the builder, which checks what it is given.
"""

from collections.abc import Mapping
from typing import Any, Protocol, assert_never

import numpy as np
from numpy.typing import NDArray

from slipstream.formats.tensor import AffineTensor, DenseTensor, Tensor
from slipstream.graph import ops
from slipstream.graph.graph import Graph, Node


class NativeModule(Protocol):
    """What csrc/bindings.cpp offers."""

    Builder: Any

    def isa_available(self) -> list[str]:
        """Instruction sets that this machine runs, slowest first."""
        ...


def build_program(
    module: NativeModule,
    graph: Graph,
    tensors: Mapping[str, Tensor],
    *,
    threads: int,
    isa: str,
    kv_dtype: str,
) -> Any:
    """The C++ program of `graph`; ValueError when its shapes do not agree."""
    compiler = _Compiler(module.Builder(threads, isa, kv_dtype), tensors)
    for number, node in enumerate(graph):
        compiler.builder.begin_node(number)
        outputs = compiler.add(node)
        compiler.values.update(zip(node.outputs, outputs, strict=True))
    last = graph.nodes[-1].outputs[0]
    return compiler.builder.finish(compiler.values[last], graph.vocabulary)


class _Compiler:
    """The builder, and the numbers it has given to weights and values."""

    def __init__(self, builder: Any, tensors: Mapping[str, Tensor]) -> None:
        self.builder = builder
        self.tensors = tensors
        self.values: dict[str, int] = {}
        self.matrices: dict[str, int] = {}
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

    def _add_single(self, op: ops.Op, inputs: list[int]) -> int:
        builder: Any = self.builder
        match op:
            case ops.Embed():
                return builder.embed(self._matrix(op.weight), op.scale)
            case ops.PositionEmbed():
                return builder.position_embed(*inputs, self._matrix(op.weight), op.offset)
            case ops.Norm():
                weight, bias = self._norm_weights(op)
                return builder.norm(*inputs, op.kind == "layer", op.heads, op.eps, weight, bias)
            case ops.GatedLinear():
                gate, up = self._matrix(op.gate), self._matrix(op.up)
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
            case ops.SoftCap():
                return builder.soft_cap(*inputs, op.cap)
            case ops.Select():
                return builder.select(*inputs)
            case ops.Linear() | ops.AddNorm():
                raise AssertionError("operations of several outputs are handled by add")
        assert_never(op)

    def _linear(self, op: ops.Linear, x: int) -> list[int]:
        matrices = [self._matrix(name) for name in op.weights]
        biases = [-1 if name is None else self._vector(name) for name in op.biases]
        return self.builder.linear(x, matrices, biases, *_rounding(op.activations))

    def _norm_weights(self, norm: ops.Norm) -> tuple[int, int]:
        bias = -1 if norm.bias is None else self._vector(norm.bias)
        return self._vector(norm.weight, norm.weight_offset), bias

    def _vector(self, name: str, offset: float = 0.0) -> int:
        """A norm's weight (plus its offset) or a bias, in float32."""
        if (name, offset) not in self.vectors:
            values = self.tensors[name].dequantize().ravel() + np.float32(offset)
            number = self.builder.add_vector(np.ascontiguousarray(values, np.float32))
            self.vectors[name, offset] = number
        return self.vectors[name, offset]

    def _matrix(self, name: str) -> int:
        """A matrix, packed once however often the graph reads it (a tied head)."""
        if name not in self.matrices:
            self.matrices[name] = _add_matrix(self.builder, self.tensors[name])
        return self.matrices[name]


def _rounding(activations: ops.Activations) -> tuple[int, int]:
    """(bits, group), with group 0 for a whole row."""
    return activations.bits, activations.group or 0


def _add_matrix(builder: Any, tensor: Tensor) -> int:
    if isinstance(tensor, DenseTensor):
        return _add_dense(builder, tensor)
    assert isinstance(tensor, AffineTensor)
    offsets = None if tensor.offsets is None else _bits_of_half(tensor.offsets)
    return builder.add_affine(
        np.ascontiguousarray(tensor.codes),
        tensor.format.bits,
        _bits_of_half(tensor.scales),
        offsets,
        tensor.format.zero,
    )


def _add_dense(builder: Any, tensor: DenseTensor) -> int:
    name = tensor.data.dtype.name
    if name in ("float16", "bfloat16"):
        return builder.add_dense(np.ascontiguousarray(tensor.data).view(np.uint16), name)
    return builder.add_dense(np.ascontiguousarray(tensor.dequantize()), "float32")


def _bits_of_half(array: NDArray[Any]) -> NDArray[Any]:
    """float16 as its bits, which is how the border takes it; other dtypes as they are."""
    array = np.ascontiguousarray(array)
    return array.view(np.uint16) if array.dtype == np.float16 else array

"""Each operation of a graph in ONNX's plain ones; `onnx_write` walks the graph through `lower`.

Rows are [B, S, ·] here: B sequences of S new tokens, each behind P earlier ones, T = P + S.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from slipstream.backends.onnx_weights import Writer
from slipstream.errors import UnsupportedError
from slipstream.graph import ops
from slipstream.graph.graph import Node

IDS, POSITIONS, MASK = "input_ids", "position_ids", "attention_mask"
HIDDEN = float(np.finfo(np.float32).min)  # not infinite: a row of padding alone must stay finite


@dataclass
class Lowering:
    """What is shared between the nodes: positions, angles and masks, each made once."""

    write: Writer
    shared: dict[Any, Any] = field(default_factory=dict)
    present: list[tuple[str, str]] = field(default_factory=list)  # keys, values of each layer

    def lower(self, node: Node, inputs: list[str]) -> tuple[str, ...]:
        """The values that stand for the node's outputs; UnsupportedError for a fused graph."""
        op = node.op
        if isinstance(op, ops.Linear):
            return self.linear(op, inputs[0])
        one = _LOWER.get(type(op))
        if one is None:
            raise UnsupportedError(f"{node.name}: {type(op).__name__} is not written as ONNX")
        return (one(self, op, *inputs),)

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """What `make` writes, the first time that it is asked for."""
        if key not in self.shared:
            self.shared[key] = make()
        return self.shared[key]

    def number(self, value: float) -> str:
        """A float32 constant."""
        return self.write.constant(value, np.float32)

    def reshaped(self, x: str, *shape: int) -> str:
        """Zeros in the shape keep what is there."""
        return str(self.write.op("Reshape", x, self.write.constant(shape)))

    def embed(self, op: ops.Embed, ids: str) -> str:
        """The matrix is [W, V] here: its columns are picked, then put last."""
        x: str = self.write.op("Transpose", self.write.columns(op.weight, ids), perm=[1, 2, 0])
        return x if op.scale == 1 else str(self.write.op("Mul", x, self.number(op.scale)))

    def position_embed(self, op: ops.PositionEmbed, x: str) -> str:
        """Positions are [B, S]."""
        places = self.write.op("Add", POSITIONS, self.write.constant(op.offset))
        picked = self.write.columns(op.weight, places)
        return str(self.write.op("Add", x, self.write.op("Transpose", picked, perm=[1, 2, 0])))

    def norm(self, op: ops.Norm, x: str) -> str:
        """As the reference: in float32, the weight last."""
        write, last = self.write, self.write.constant([-1])
        if op.heads > 1:
            x = self.reshaped(x, 0, 0, op.heads, -1)
        if op.kind == "layer":
            x = write.op("Sub", x, write.op("ReduceMean", x, last))
        power = write.op("ReduceMean", write.op("Mul", x, x), last)
        root = write.op("Sqrt", write.op("Add", power, self.number(op.eps)))
        weight = write.vector(op.weight)
        if op.weight_offset:
            weight = write.op("Add", weight, self.number(op.weight_offset))
        x = write.op("Mul", write.op("Div", x, root), weight)
        if op.bias is not None:
            x = write.op("Add", x, write.vector(op.bias))
        return self.reshaped(x, 0, 0, -1) if op.heads > 1 else x

    def linear(self, op: ops.Linear, x: str) -> tuple[str, ...]:
        """One product for each weight."""
        products = []
        for weight, bias in zip(op.weights, op.biases, strict=True):
            product = self.write.op("MatMul", x, self.write.matrix(weight))
            if bias is not None:
                product = self.write.op("Add", product, self.write.vector(bias))
            products.append(product)
        return tuple(products)

    def rotary(self, op: ops.Rotary, x: str) -> str:
        """Halves of each head turn by their angle; what lies behind them stays."""
        write, n = self.write, len(op.frequencies)
        key = (op.frequencies, op.attention_factor)
        cosines, sines = self.once(key, lambda: self._angles(op))
        heads = self.reshaped(x, 0, 0, op.heads, op.head_dim)
        rest = op.head_dim - 2 * n
        sizes = [n, n] + ([rest] if rest else [])
        parts = write.op("Split", heads, write.constant(sizes), outputs=len(sizes), axis=-1)
        first, second = parts[:2]
        turned = [
            write.op("Sub", write.op("Mul", first, cosines), write.op("Mul", second, sines)),
            write.op("Add", write.op("Mul", second, cosines), write.op("Mul", first, sines)),
        ]
        return self.reshaped(write.op("Concat", *turned, *parts[2:], axis=-1), 0, 0, -1)

    def _angles(self, op: ops.Rotary) -> tuple[str, str]:
        """Cosines and sines [B, S, 1, n]; whole turns are taken off in float64."""
        write, kind = self.write, self.write.onnx.TensorProto
        places = write.op("Cast", POSITIONS, to=kind.DOUBLE)
        places = write.op("Unsqueeze", places, write.constant([2, 3]))
        angles = write.op("Mul", places, write.constant(op.frequencies, np.float64))
        turn = write.constant(2 * math.pi, np.float64)
        turns = write.op("Floor", write.op("Div", angles, turn))
        angles = write.op("Sub", angles, write.op("Mul", turns, turn))
        angles = write.op("Cast", angles, to=kind.FLOAT)
        factor = self.number(op.attention_factor)
        cosines, sines = (write.op(kind, angles) for kind in ("Cos", "Sin"))
        return write.op("Mul", cosines, factor), write.op("Mul", sines, factor)

    def attention(self, op: ops.Attention, queries: str, keys: str, values: str) -> str:
        """Queries that share a key head stand in a dimension of their own: [B, K, H/K, S, D]."""
        write = self.write
        kept = [
            self._appended(f"past_key_values.{op.layer}.{name}", x, op)
            for name, x in (("key", keys), ("value", values))
        ]
        self.present.append((kept[0], kept[1]))
        q = self.reshaped(queries, 0, 0, op.kv_heads, op.heads // op.kv_heads, op.head_dim)
        q = write.op("Transpose", q, perm=[0, 2, 3, 1, 4])
        k, v = (write.op("Unsqueeze", x, write.constant([2])) for x in kept)
        k = write.op("Transpose", k, perm=[0, 1, 2, 4, 3])
        scores = write.op("Mul", write.op("MatMul", q, k), self.number(op.scale))
        if op.soft_cap is not None:
            scores = self.soft_cap(ops.SoftCap(op.soft_cap), scores)
        visible = self.once(("mask", op.window), lambda: self._visible(op.window, kept[0]))
        scores = write.op("Where", visible, scores, self.number(HIDDEN))
        mixed = write.op("MatMul", write.op("Softmax", scores, axis=-1), v)
        mixed = write.op("Transpose", mixed, perm=[0, 3, 1, 2, 4])
        return self.reshaped(mixed, 0, 0, -1)

    def _appended(self, past: str, x: str, op: ops.Attention) -> str:
        """[B, K, P, D] and the new rows [B, S, K·D] → [B, K, T, D]."""
        new = self.reshaped(x, 0, 0, op.kv_heads, op.head_dim)
        new = self.write.op("Transpose", new, perm=[0, 2, 1, 3])
        return str(self.write.op("Concat", past, new, axis=2))

    def _visible(self, window: int | None, keys: str) -> str:
        """bool [B, 1, 1, S, T]: what each new token may look at."""
        write = self.write
        zero, one = write.constant(0), write.constant(1)
        total = write.op("Gather", write.op("Shape", keys), write.constant(2))
        count = write.op("Gather", write.op("Shape", IDS), one)
        key_places = write.op("Range", zero, total, one)
        query_places = write.op("Range", write.op("Sub", total, count), total, one)
        query_places = write.op("Unsqueeze", query_places, write.constant([1]))
        seen = write.op("LessOrEqual", key_places, query_places)
        if window is not None:
            first = write.op("Sub", query_places, write.constant(window))
            seen = write.op("And", seen, write.op("Greater", key_places, first))
        given = write.op("Cast", MASK, to=write.onnx.TensorProto.BOOL)
        given = write.op("Unsqueeze", given, write.constant([1, 2, 3]))
        return str(write.op("And", seen, given))

    def activate(self, op: ops.Activate, x: str) -> str:
        """By element."""
        write = self.write
        match op.kind:
            case "silu":
                return str(write.op("Mul", x, write.op("Sigmoid", x)))
            case "gelu":
                return str(write.op("Gelu", x))
            case "gelu_tanh":
                return str(write.op("Gelu", x, approximate="tanh"))
            case "relu":
                return str(write.op("Relu", x))

    def gate(self, op: ops.Gate, gate: str, up: str) -> str:
        """activation(gate) · up."""
        return str(self.write.op("Mul", self.activate(ops.Activate(op.kind), gate), up))

    def shift(self, op: ops.Shift, x: str) -> str:
        """Adds the vector."""
        return str(self.write.op("Add", x, self.write.vector(op.weight)))

    def soft_cap(self, op: ops.SoftCap, x: str) -> str:
        """cap · tanh(x / cap)."""
        small = self.write.op("Div", x, self.number(op.cap))
        return str(self.write.op("Mul", self.write.op("Tanh", small), self.number(op.cap)))

    def add(self, op: ops.Add, x: str, y: str) -> str:
        """A sum."""
        return str(self.write.op("Add", x, y))

    def scale(self, op: ops.Scale, x: str) -> str:
        """A product with a number."""
        return str(self.write.op("Mul", x, self.number(op.factor)))

    def select(self, op: ops.Select, x: str) -> str:
        """Every row has logits here."""
        return x


_LOWER: dict[type, Callable[..., str]] = {
    ops.Embed: Lowering.embed,
    ops.PositionEmbed: Lowering.position_embed,
    ops.Norm: Lowering.norm,
    ops.Rotary: Lowering.rotary,
    ops.Attention: Lowering.attention,
    ops.Activate: Lowering.activate,
    ops.Gate: Lowering.gate,
    ops.Add: Lowering.add,
    ops.Scale: Lowering.scale,
    ops.Shift: Lowering.shift,
    ops.SoftCap: Lowering.soft_cap,
    ops.Select: Lowering.select,
}

"""The truth: runs a graph one operation after another, plainly, on numpy or torch arrays.

Tests hold every other backend against it; training differentiates through it (pass
``xp=array_api_compat.torch`` and torch tensors as weights). It promises clarity before speed.

>>> program = compile_reference(model.graph, model.weights)
>>> kv = program.new_kv(page_count=4)
>>> logits = program.step(single(ids), kv)  # [1, V]: what follows the last id
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, assert_never

import numpy as np

from slipstream.backends import reference_adapters, reference_kv, reference_ops
from slipstream.backends.adapters import ADAPTER_SLOTS, fit_adapter, sites_of
from slipstream.backends.batch import KV, Batch, Program, page_counts_of
from slipstream.backends.reference_kv import ReferenceKV
from slipstream.backends.reference_ops import Array
from slipstream.checkpoint.peft import Adapter, LowRankPair
from slipstream.formats.kv import KVType
from slipstream.formats.tensor import Tensor
from slipstream.graph import ops
from slipstream.graph.graph import Graph, Node, weights_of


def compile_reference(
    graph: Graph,
    weights: Mapping[str, Any],
    *,
    xp: Any = np,
    kv_dtype: KVType = "float32",
    dtype: Literal["float32", "float64"] = "float32",
    device: Any = None,
) -> Program:
    """A program over the array library `xp`: numpy, or ``array_api_compat.torch``.

    `weights` maps names to our tensors (dequantized when first read, then kept), or to arrays of
    `xp`, which are used as they are: gradients flow to them, through fresh pages for each step.
    `dtype` is that of all arithmetic; "float64" gives a truth without visible rounding.
    """
    graph.check()
    return ReferenceProgram(
        graph, weights, xp=xp, kv_dtype=kv_dtype, dtype=getattr(xp, dtype), device=device
    )


@dataclass
class ReferenceProgram:
    """See `backends.batch.Program`. Logits come as arrays of `xp`, in the program's dtype."""

    graph: Graph
    weights: Mapping[str, Any]
    xp: Any
    kv_dtype: KVType
    dtype: Any
    device: Any = None
    dequantized: dict[str, Array] = field(default_factory=dict, repr=False)
    adapters: dict[int, dict[str, LowRankPair]] = field(default_factory=dict, repr=False)

    def new_kv(self, page_count: int | Sequence[int]) -> ReferenceKV:
        """Empty storage; see `backends.batch.Program`."""
        like = self.xp.empty(0, dtype=self.dtype, device=self.device)
        page_counts = page_counts_of(self.graph, page_count)
        return reference_kv.new_kv(self.graph, page_counts, self.kv_dtype, like)

    def step(self, batch: Batch, kv: KV) -> Array:
        """Runs the batch, writes its keys and values into `kv`; returns logits [L, V]."""
        return _Step(self, batch, kv).run({})[self.graph.nodes[-1].outputs[0]]

    def values(self, batch: Batch, kv: KV, names: tuple[str, ...]) -> dict[str, Array]:
        """Runs the batch; returns the graph's values of these names (training looks inside)."""
        found = _Step(self, batch, kv).run({}, frozenset(names))
        return {name: found[name] for name in names}

    def capture(self, batch: Batch, kv: KV, weights: tuple[str, ...]) -> dict[str, Array]:
        """Runs the batch; returns the unrounded input [R, in] of each weight's linear."""
        captured: dict[str, Array] = dict.fromkeys(weights)
        _Step(self, batch, kv).run(captured)
        missing = [name for name, rows in captured.items() if rows is None]
        if missing:
            raise ValueError(f"no linear of the graph reads {', '.join(missing)}")
        return captured

    @property
    def adapter_bytes(self) -> int:
        """What the loaded adapters occupy."""
        return sum(pair.size_bytes for pairs in self.adapters.values() for pair in pairs.values())

    def load_adapter(self, slot: int, adapter: Adapter) -> None:
        """See `backends.batch.Program`."""
        if slot in self.adapters or not 0 <= slot < ADAPTER_SLOTS:
            raise ValueError("this adapter slot is taken, or out of range")
        shapes = {name: tuple(self.weights[name].shape) for name in sites_of(self.graph)}
        self.adapters[slot] = fit_adapter(self.graph, shapes, adapter)

    def unload_adapter(self, slot: int) -> None:
        """Empties a slot; ValueError if it is empty."""
        if self.adapters.pop(slot, None) is None:
            raise ValueError("this adapter slot is empty")

    def weight(self, name: str) -> Array:
        """The dense values of a weight, in the program's dtype."""
        if name in self.dequantized:
            return self.dequantized[name]
        stored = self.weights[name]
        if not isinstance(stored, Tensor):
            return self.xp.astype(stored, self.dtype, copy=False)
        values = self.xp.asarray(stored.dequantize(), dtype=self.dtype, device=self.device)
        self.dequantized[name] = values
        return values


class _Step:
    """One run of the graph over one batch: the values in flight."""

    def __init__(self, program: ReferenceProgram, batch: Batch, kv: KV) -> None:
        assert isinstance(kv, ReferenceKV), "pages of another backend"
        batch.check(program.graph, kv.page_counts)
        reference_adapters.check_slots(batch, program.adapters)
        self.program = program
        self.batch = batch
        self.kv = kv
        self.angles: dict[tuple[object, ...], tuple[Array, Array]] = {}
        self.row_slots = reference_adapters.row_slots(batch, selected=False)

    def run(
        self, captured: dict[str, Array], kept: frozenset[str] = frozenset()
    ) -> dict[str, Array]:
        """Runs every node; fills those keys of `captured` that name a linear's weight.

        Returns the values that are left: the output of the last node, and those in `kept`.
        """
        nodes = self.program.graph.nodes
        last_read = {name: i for i, node in enumerate(nodes) for name in node.inputs}
        values: dict[str, Array] = {"ids": self._integers(self.batch.ids)}
        for i, node in enumerate(nodes):
            inputs = [values[name] for name in node.inputs]
            if isinstance(node.op, ops.Linear | ops.GatedLinear):
                captured.update({w: inputs[0] for w in weights_of(node.op) if w in captured})
            outputs = self._apply(node, inputs)
            values.update(zip(node.outputs, outputs, strict=True))
            for name in node.inputs:
                if last_read[name] == i and name not in kept:
                    values.pop(name, None)
        return values

    def _apply(self, node: Node, inputs: list[Array]) -> tuple[Array, ...]:
        x, weight = inputs[0], self.program.weight
        match node.op:
            case ops.Linear(weights=names, biases=biases, activations=activations):
                dense = [weight(name) for name in names]
                added = [self._bias(bias) for bias in biases]
                return self._adapted(x, reference_ops.linear(x, dense, added, activations), names)
            case ops.AddNorm(norm=op):
                return reference_ops.add_norm(
                    x, inputs[1], op, weight(op.weight), self._bias(op.bias)
                )
            case _:
                return (self._apply_single(node.op, inputs),)

    def _apply_single(self, op: ops.Op, inputs: list[Array]) -> Array:
        x, weight = inputs[0], self.program.weight
        match op:
            case ops.Embed():
                return reference_ops.embed(x, weight(op.weight), op.scale)
            case ops.PositionEmbed():
                positions = self._integers(self.batch.positions())
                return reference_ops.position_embed(x, positions, weight(op.weight), op.offset)
            case ops.Norm():
                return reference_ops.norm(x, op, weight(op.weight), self._bias(op.bias))
            case ops.Rotary():
                return reference_ops.rotary(x, *self._angles(op), op)
            case ops.Attention():
                return reference_kv.attention(*inputs, batch=self.batch, kv=self.kv, op=op)
            case ops.GatedLinear():
                names = (op.gate, op.up)
                halves = reference_ops.gated_halves(x, weight(op.gate), weight(op.up), op)
                gate_rows, up_rows = self._adapted(x, halves, names)
                return reference_ops.gate(gate_rows, up_rows, op.kind)
            case ops.Gate():
                return reference_ops.gate(x, inputs[1], op.kind)
            case ops.Activate():
                return reference_ops.activate(x, op.kind)
            case ops.Add():
                return x + inputs[1]
            case ops.Scale():
                return x * op.factor
            case ops.Shift():
                return x + weight(op.weight)
            case ops.SoftCap():
                return reference_ops.soft_cap(x, op.cap)
            case ops.Select():
                self.row_slots = reference_adapters.row_slots(self.batch, selected=True)
                return x[self._integers(self.batch.logit_rows)]
            case ops.Linear() | ops.AddNorm():
                raise AssertionError("operations of several outputs are handled by _apply")
        assert_never(op)

    def _adapted(
        self, x: Array, products: tuple[Array, ...], weights: tuple[str, ...]
    ) -> tuple[Array, ...]:
        slots, rows = self.program.adapters, self.row_slots
        return tuple(
            reference_adapters.add_adapters(x, product, weight, slots, rows)
            for product, weight in zip(products, weights, strict=True)
        )

    def _bias(self, name: str | None) -> Array | None:
        return None if name is None else self.program.weight(name)

    def _integers(self, values: Any) -> Array:
        return self.program.xp.asarray(values.astype(np.int64), device=self.program.device)

    def _angles(self, op: ops.Rotary) -> tuple[Array, Array]:
        """Cosines and sines of the batch's positions, made once for all layers that share them."""
        key = (op.frequencies, op.attention_factor)
        if key not in self.angles:
            xp, dtype, device = self.program.xp, self.program.dtype, self.program.device
            cosines, sines = reference_ops.rotary_angles(self.batch.positions(), op)
            self.angles[key] = (
                xp.asarray(cosines, dtype=dtype, device=device),
                xp.asarray(sines, dtype=dtype, device=device),
            )
        return self.angles[key]

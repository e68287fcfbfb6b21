"""Every operation of the native backend against the reference, on every instruction set here."""

from typing import get_args

import ml_dtypes
import numpy as np
import pytest

from slipstream.backends.batch import Batch, single
from slipstream.backends.native import NativeOptions, compile_native, native_module
from slipstream.backends.reference import compile_reference
from slipstream.errors import MachineError
from slipstream.formats.affine import quantize_affine
from slipstream.formats.kv import KVType
from slipstream.formats.tensor import Affine, DenseTensor
from slipstream.graph import ops
from slipstream.graph.graph import Builder, Graph

try:
    ISAS = native_module().isa_available()
except MachineError:
    pytest.skip("the native kernels were not built", allow_module_level=True)

VOCABULARY = 50


def dense(*shape: int, seed: int = 0, scale: float = 1.0) -> DenseTensor:
    values = np.random.default_rng(seed).normal(0, scale, shape)
    return DenseTensor(values.astype(np.float32))


def graph_of(width: int, *chain: ops.Op) -> Graph:
    """embed → the operations, each on the result of the one before → select."""
    build = Builder()
    x = build.add("embed", ops.Embed("embed"), "ids")
    for i, op in enumerate(chain):
        match op:
            case ops.Add() | ops.Gate():
                x = build.add(f"op{i}", op, x, x)
            case ops.AddNorm():
                x = build.add_many(f"op{i}", op, x, x, outputs=2)[1]
            case _:
                x = build.add(f"op{i}", op, x)
    build.add("select", ops.Select(), x)
    return Graph("test", tuple(build.nodes), width, VOCABULARY, 4096)


def both(graph: Graph, weights, batch: Batch, isa: str, kv_dtype="float32"):
    """(native, reference) logits; the reference follows the graph as the native one compiled it."""
    native = compile_native(graph, weights, NativeOptions(2, "auto", kv_dtype, isa))
    reference = compile_reference(native.graph, weights, kv_dtype=kv_dtype)
    pages = int(batch.pages.max()) + 1
    ours = native.step(batch, native.new_kv(pages))
    return ours, reference.step(batch, reference.new_kv(pages))


def ids(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, VOCABULARY, count).astype(np.int32)


ELEMENTWISE = [
    ops.Activate("silu"),
    ops.Activate("gelu"),
    ops.Activate("gelu_tanh"),
    ops.Activate("relu"),
    ops.Gate("silu"),
    ops.Gate("gelu_tanh"),
    ops.Add(),
    ops.Scale(0.37),
    ops.SoftCap(1.5),
    ops.Shift("bias"),
    ops.Norm("rms", "norm", 1e-5),
    ops.Norm("rms", "norm", 1e-5, weight_offset=1.0),
    ops.Norm("layer", "norm", 1e-5, bias="bias"),
    ops.AddNorm(ops.Norm("rms", "norm", 1e-5)),
    ops.PositionEmbed("positions", offset=2),
    ops.Rotary(2, 16, (1.0, 0.3, 0.1)),
    ops.Rotary(4, 8, (1.0, 0.3, 0.1, 0.01), attention_factor=1.2),
    ops.Embed("embed", scale=2.5),
]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("op", ELEMENTWISE, ids=str)
def test_row_operations(op, isa):
    weights = {
        "embed": dense(VOCABULARY, 32),
        "norm": dense(32, seed=1),
        "bias": dense(32, seed=2),
        "positions": dense(40, 32, seed=3),
    }
    graph = graph_of(32) if isinstance(op, ops.Embed) else graph_of(32, op)
    if isinstance(op, ops.Embed):
        graph = Graph("test", (graph.nodes[0].__class__("embed", op, ("ids",), ("v0",)),
                               graph.nodes[1]), 32, VOCABULARY, 64)  # fmt: skip
    ours, truth = both(graph, weights, single(ids(33), all_logits=True), isa)
    np.testing.assert_allclose(ours, truth, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("width", "heads"), [(24, 1), (24, 2), (40, 5), (7, 1), (100, 4)])
@pytest.mark.parametrize("kind", ["rms", "layer"])
def test_norms_of_odd_widths_and_of_heads(kind, width, heads, isa):
    weights = {"embed": dense(VOCABULARY, width), "norm": dense(width // heads, seed=1)}
    graph = graph_of(width, ops.Norm(kind, "norm", 1e-6, heads=heads))
    ours, truth = both(graph, weights, single(ids(5), all_logits=True), isa)
    np.testing.assert_allclose(ours, truth, rtol=2e-5, atol=2e-6)


FORMATS = {
    "dense": None,
    "bfloat16": None,
    "int4": Affine(4, 32),
    "int4-minimum": Affine(4, 32, "minimum"),
    "int4-zero": Affine(4, 64, "zero_point"),
    "int8": Affine(8, None),
    "int8-minimum": Affine(8, 16, "minimum"),
}


def matrix(outputs: int, inputs: int, name: str, seed: int = 0):
    values = dense(outputs, inputs, seed=seed, scale=0.2)
    affine = FORMATS[name]
    if name == "bfloat16":
        return DenseTensor(values.data.astype(ml_dtypes.bfloat16))
    return values if affine is None else quantize_affine(values.data, affine)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("activations", ["f32", "bf16", "auto"])
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("rows", [1, 9])
def test_linears(rows, name, activations, isa):
    weights = {
        "embed": dense(VOCABULARY, 64),
        "w": matrix(37, 64, name),
        "bias": dense(37, seed=4),
    }
    graph = graph_of(64, ops.Linear(("w",), ("bias",)))
    native = compile_native(graph, weights, NativeOptions(2, activations, isa=isa))
    reference = compile_reference(native.graph, weights, dtype="float64")
    batch = single(ids(rows), all_logits=True)
    ours = native.step(batch, native.new_kv(1))
    truth = reference.step(batch, reference.new_kv(1))
    np.testing.assert_allclose(ours, truth, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", ["dense", "int4", "int8-minimum"])
def test_gated_linears(name, isa):
    weights = {
        "embed": dense(VOCABULARY, 64),
        "g": matrix(48, 64, name, 1),
        "u": matrix(48, 64, name, 2),
    }
    graph = graph_of(64, ops.GatedLinear("g", "u", "silu"))
    ours, truth = both(graph, weights, single(ids(7), all_logits=True), isa)
    np.testing.assert_allclose(ours, truth, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("isa", ISAS)
def test_a_tied_affine_embedding_is_looked_up_as_the_head_sees_it(isa):
    weights = {"embed": quantize_affine(dense(VOCABULARY, 64).data, Affine(8, 32))}
    native = compile_native(graph_of(64), weights, NativeOptions(isa=isa))
    batch = single(ids(6), all_logits=True)
    ours = native.step(batch, native.new_kv(1))
    np.testing.assert_array_equal(ours, weights["embed"].dequantize()[batch.ids])


def attention_graph(op: ops.Attention) -> Graph:
    build = Builder()
    x = build.add("embed", ops.Embed("embed"), "ids")
    q = build.add("q", ops.Linear(("q",), (None,)), x)
    k = build.add("k", ops.Linear(("k",), (None,)), x)
    v = build.add("v", ops.Linear(("v",), (None,)), x)
    q, k = (
        build.add(f"rotary{n}", ops.Rotary(h, op.head_dim, (1.0, 0.1)), value)
        for n, h, value in ((0, op.heads, q), (1, op.kv_heads, k))
    )
    a = build.add("attention", op, q, k, v)
    build.add("select", ops.Select(), a)
    return Graph("test", tuple(build.nodes), 32, VOCABULARY, 4096)


ATTENTIONS = [
    ops.Attention(0, 4, 2, 8, 0.35),
    ops.Attention(0, 4, 4, 16, 0.25),
    ops.Attention(0, 9, 3, 64, 0.125),
    ops.Attention(0, 8, 1, 24, 0.2, soft_cap=2.0),
    ops.Attention(0, 2, 1, 16, 0.25, window=20),
    ops.Attention(0, 2, 2, 12, 0.3, window=600),
    ops.Attention(0, 7, 7, 20, 0.3, window=1),
]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kv_dtype", get_args(KVType))
@pytest.mark.parametrize("op", ATTENTIONS, ids=str)
def test_attention(op, kv_dtype, isa):
    weights = {
        "embed": dense(VOCABULARY, 32),
        "q": dense(op.heads * op.head_dim, 32, seed=1, scale=0.3),
        "k": dense(op.kv_heads * op.head_dim, 32, seed=2, scale=0.3),
        "v": dense(op.kv_heads * op.head_dim, 32, seed=3, scale=0.3),
    }
    for count in (1, 70, 700):
        batch = single(ids(count), all_logits=True)
        ours, truth = both(attention_graph(op), weights, batch, isa, kv_dtype)
        np.testing.assert_allclose(
            ours, truth, rtol=1e-3, atol=2e-5 if kv_dtype == "float32" else 2e-2
        )

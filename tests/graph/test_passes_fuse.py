"""The fusing pass: what becomes one, what must not, and that the values stay the same."""

import numpy as np
import pytest

from slipstream.backends.batch import single
from slipstream.backends.reference import compile_reference
from slipstream.formats.tensor import DenseTensor
from slipstream.graph import ops
from slipstream.graph.graph import Builder, Graph
from slipstream.graph.passes.fuse import fuse, joined_name

WIDTH, HIDDEN, VOCABULARY = 32, 48, 19


def block_graph(bias: bool = False) -> Graph:
    """One transformer block, written as a model page writes it."""
    build = Builder()
    x = build.add("embed", ops.Embed("embed"), "ids")
    h = build.add("norm1", ops.Norm("rms", "norm1", 1e-5), x)
    q, k, v = (build.add(f"attn.{n}", ops.Linear((n,), (None,)), h) for n in ("q", "k", "v"))
    a = build.add("attn", ops.Attention(0, 4, 2, 8, 0.3), q, k, v)
    o = build.add("attn.o", ops.Linear(("o",), (None,)), a)
    x = build.add("add1", ops.Add(), x, o)
    h = build.add("norm2", ops.Norm("rms", "norm2", 1e-5), x)
    biases = ("gate_bias" if bias else None,)
    g = build.add("mlp.gate", ops.Linear(("gate",), biases), h)
    u = build.add("mlp.up", ops.Linear(("up",), (None,)), h)
    m = build.add("mlp.act", ops.Gate("silu"), g, u)
    d = build.add("mlp.down", ops.Linear(("down",), (None,)), m)
    x = build.add("add2", ops.Add(), x, d)
    x = build.add("norm", ops.Norm("rms", "norm3", 1e-5), x)
    x = build.add("select", ops.Select(), x)
    build.add("head", ops.Linear(("embed",), (None,)), x)
    return Graph("test", tuple(build.nodes), WIDTH, VOCABULARY, 128)


def block_weights(seed: int = 0) -> dict[str, DenseTensor]:
    rng = np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = {
        "embed": (VOCABULARY, WIDTH), "q": (32, WIDTH), "k": (16, WIDTH), "v": (16, WIDTH),
        "o": (WIDTH, 32), "gate": (HIDDEN, WIDTH), "up": (HIDDEN, WIDTH), "down": (WIDTH, HIDDEN),
        "norm1": (WIDTH,), "norm2": (WIDTH,), "norm3": (WIDTH,), "gate_bias": (HIDDEN,),
    }  # fmt: skip
    return {
        name: DenseTensor(rng.normal(0, 0.3, shape).astype(np.float32))
        for name, shape in shapes.items()
    }


def names(graph: Graph) -> list[str]:
    return [node.name for node in graph]


def test_a_block_becomes_few_operations():
    assert names(fuse(block_graph())) == [
        "embed",
        "norm1",
        "attn.q+k+v",
        "attn",
        "attn.o",
        "add1+norm2",
        "mlp.gate+up",
        "mlp.down",
        "add2+norm",
        "select",
        "head",
    ]


def test_fusing_twice_changes_nothing_more():
    once = fuse(block_graph())
    assert fuse(once) == once


def test_a_gate_with_a_bias_stays_apart():
    fused = fuse(block_graph(bias=True))
    assert not any(isinstance(node.op, ops.GatedLinear) for node in fused)
    assert fused.node("mlp.gate+up").op.biases == ("gate_bias", None)


@pytest.mark.parametrize("bias", [False, True])
def test_the_fused_graph_computes_the_same(bias):
    graph, weights = block_graph(bias), block_weights()
    batch = single(np.arange(11, dtype=np.int32), all_logits=True)
    plain, fused = (compile_reference(g, weights) for g in (graph, fuse(graph)))
    expected = plain.step(batch, plain.new_kv(1))
    np.testing.assert_allclose(fused.step(batch, fused.new_kv(1)), expected, rtol=1e-5, atol=1e-6)


def test_linears_that_round_differently_stay_apart():
    build = Builder()
    x = build.add("embed", ops.Embed("e"), "ids")
    build.add("a", ops.Linear(("a",), (None,), ops.Activations(8, 32)), x)
    build.add("b", ops.Linear(("b",), (None,)), x)
    graph = Graph("test", tuple(build.nodes), WIDTH, VOCABULARY, 128)
    assert fuse(graph).nodes == graph.nodes


def test_a_gate_whose_linear_is_read_elsewhere_stays_apart():
    build = Builder()
    x = build.add("embed", ops.Embed("e"), "ids")
    g = build.add("gate", ops.Linear(("g",), (None,)), x)
    u = build.add("up", ops.Linear(("u",), (None,)), x)
    y = build.add("act", ops.Gate("silu"), g, u)
    build.add("sum", ops.Add(), y, g)
    graph = Graph("test", tuple(build.nodes), WIDTH, VOCABULARY, 128)
    assert not any(isinstance(node.op, ops.GatedLinear) for node in fuse(graph))


def test_names_join_at_their_last_difference():
    assert joined_name(["layers.0.q", "layers.0.k"]) == "layers.0.q+k"
    assert joined_name(["a.add", "b.norm"]) == "a.add+b.norm"

"""Keys and values as codes: the native pages give back, bit by bit, what `formats.kv` says."""

from typing import get_args

import numpy as np
import pytest

from slipstream.backends.batch import PAGE_SIZE, single
from slipstream.backends.native import NativeOptions, compile_native, native_module
from slipstream.backends.reference import compile_reference
from slipstream.errors import MachineError
from slipstream.formats.kv import KVType, kv_position_bytes, value_read_back
from slipstream.formats.tensor import DenseTensor
from slipstream.graph import ops
from slipstream.graph.graph import Builder, Graph

try:
    ISAS = native_module().isa_available()
except MachineError:
    pytest.skip("the native kernels were not built", allow_module_level=True)

KV_TYPES = get_args(KVType)
COUNT = 40


def attention_of_embeddings(heads: int, head_dim: int) -> Graph:
    """Queries, keys and values are the embedding itself: no product rounds before the pages."""
    build = Builder()
    x = build.add("embed", ops.Embed("embed"), "ids")
    attention = ops.Attention(0, heads, heads, head_dim, head_dim**-0.5)
    build.add("select", ops.Select(), build.add("attention", attention, x, x, x))
    return Graph("test", tuple(build.nodes), heads * head_dim, COUNT, 1024)


def embedding(width: int, sticking_out: float = 9.0) -> dict[str, DenseTensor]:
    values = np.random.default_rng(width).normal(size=(COUNT, width)).astype(np.float32)
    values[:, 1] *= sticking_out
    return {"embed": DenseTensor(values)}


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kv", KV_TYPES)
@pytest.mark.parametrize("head_dim", [7, 8, 20, 64, 80])
def test_a_lone_position_reads_back_the_same_bits(head_dim, kv, isa):
    graph, weights = attention_of_embeddings(3, head_dim), embedding(3 * head_dim)
    program = compile_native(graph, weights, NativeOptions(1, "auto", kv, isa))
    pages = program.new_kv(1)
    for token in range(COUNT):
        value = weights["embed"].data[token].reshape(3, head_dim)
        read = program.step(single(np.array([token])), pages).reshape(3, head_dim)
        np.testing.assert_array_equal(read, value_read_back(value, kv))


@pytest.mark.parametrize("kv", KV_TYPES)
@pytest.mark.parametrize("head_dim", [8, 64])
def test_many_positions_agree_with_the_reference(head_dim, kv):
    """Equal codes on both sides, so that only the order of float sums is left to differ."""
    graph, weights = attention_of_embeddings(2, head_dim), embedding(2 * head_dim)
    ids = np.random.default_rng(1).integers(0, COUNT, 150).astype(np.int32)
    batch = single(ids, all_logits=True)
    native = compile_native(graph, weights, NativeOptions(2, "auto", kv))
    reference = compile_reference(graph, weights, kv_dtype=kv)
    ours, truth = (one.step(batch, one.new_kv(3)) for one in (native, reference))
    np.testing.assert_allclose(ours, truth, rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize("kv", KV_TYPES)
@pytest.mark.parametrize("head_dim", [7, 64])
def test_pages_take_the_bytes_that_are_counted(head_dim, kv):
    graph, weights = attention_of_embeddings(3, head_dim), embedding(3 * head_dim)
    native = compile_native(graph, weights, NativeOptions(1, kv_dtype=kv)).new_kv(4)
    reference = compile_reference(graph, weights, kv_dtype=kv).new_kv(4)
    counted = 4 * PAGE_SIZE * kv_position_bytes(kv, 3, head_dim)
    assert native.size_bytes == counted == reference.size_bytes


@pytest.mark.parametrize("kv", ["int8", "k8v4", "int4"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_reads_back_as_nan(bad, kv):
    graph, weights = attention_of_embeddings(1, 16), embedding(16)
    weights["embed"].data[0, 3] = bad
    program = compile_native(graph, weights, NativeOptions(1, kv_dtype=kv))
    pages = program.new_kv(1)
    assert np.isnan(program.step(single(np.array([0])), pages)).all()
    assert np.isfinite(program.step(single(np.array([1])), pages)).all()


def test_the_graph_says_how_its_keys_are_stored_unless_the_options_do():
    graph, weights = attention_of_embeddings(1, 16), embedding(16)
    meant = Graph("test", graph.nodes, graph.width, graph.vocabulary, graph.context, kv="int4")
    said = compile_native(meant, weights, NativeOptions(1))
    assert said.graph.kv == "int4"
    assert said.new_kv(1).size_bytes == PAGE_SIZE * kv_position_bytes("int4", 1, 16)
    assert compile_native(meant, weights, NativeOptions(1, kv_dtype="int8")).graph.kv == "int8"
    assert compile_native(graph, weights, NativeOptions(1)).graph.kv == "bfloat16"

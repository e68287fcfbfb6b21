"""Costs against numbers counted by hand, and the laws that any count must obey."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipstream.graph import ops
from slipstream.graph.cost import (
    Cost,
    Size,
    StepShape,
    attended_pairs,
    cost_of,
    costs_of,
    kv_token_bytes,
    predict_s,
    sizes_of,
    step_cost,
    values_of,
    visible_positions,
)
from slipstream.graph.graph import Builder, Graph
from slipstream.graph.passes.fuse import fuse
from slipstream.machine import Ceilings, Rate

WIDTH, INNER, VOCABULARY, HEADS, KV_HEADS, HEAD_DIM = 8, 24, 50, 4, 2, 2
INT8 = ops.Activations(8, 32)


def block_graph(activations: ops.Activations = INT8, window: int | None = None) -> Graph:
    """A whole model of one block, unfused."""
    build = Builder()

    def linear(name: str, source: str) -> str:
        return build.add(name, ops.Linear((name,), (None,), activations), source)

    x = build.add("embed", ops.Embed("embed"), "ids")
    normed = build.add("norm1", ops.Norm("rms", "norm1", 1e-5), x)
    q, k, v = (linear(name, normed) for name in ("q", "k", "v"))
    q = build.add("rotary.q", ops.Rotary(HEADS, HEAD_DIM, (1.0,)), q)
    k = build.add("rotary.k", ops.Rotary(KV_HEADS, HEAD_DIM, (1.0,)), k)
    attention = ops.Attention(0, HEADS, KV_HEADS, HEAD_DIM, 1.0, window)
    mixed = linear("o", build.add("attention", attention, q, k, v))
    x = build.add("add1", ops.Add(), x, mixed)
    normed = build.add("norm2", ops.Norm("rms", "norm2", 1e-5), x)
    gate, up = linear("gate", normed), linear("up", normed)
    x = build.add(
        "add2", ops.Add(), x, linear("down", build.add("act", ops.Gate("silu"), gate, up))
    )
    x = build.add("select", ops.Select(), build.add("norm3", ops.Norm("rms", "norm3", 1e-5), x))
    linear("head", x)
    graph = Graph("test", tuple(build.nodes), WIDTH, VOCABULARY, 128)
    graph.check()
    return graph


def sizes() -> dict[str, Size]:
    """Half a byte per number, as if four bits without scales; norms in float32."""
    shapes = {
        "embed": (VOCABULARY, WIDTH),
        "q": (HEADS * HEAD_DIM, WIDTH),
        "k": (KV_HEADS * HEAD_DIM, WIDTH),
        "v": (KV_HEADS * HEAD_DIM, WIDTH),
        "o": (WIDTH, HEADS * HEAD_DIM),
        "gate": (INNER, WIDTH),
        "up": (INNER, WIDTH),
        "down": (WIDTH, INNER),
        "head": (VOCABULARY, WIDTH),
    }
    matrices = {name: Size(shape, shape[0] * shape[1] // 2) for name, shape in shapes.items()}
    norms = {name: Size((WIDTH,), 4 * WIDTH) for name in ("norm1", "norm2", "norm3")}
    return matrices | norms


steps = st.lists(st.tuples(st.integers(1, 40), st.integers(0, 300)), min_size=1, max_size=4).map(
    lambda pairs: StepShape(tuple(r for r, _ in pairs), tuple(c for _, c in pairs))
)


def test_a_linear_reads_its_weights_once_and_multiplies_per_row() -> None:
    costs = costs_of(block_graph(), sizes(), StepShape((3,), (0,)))
    assert costs["down"] == Cost(
        bytes_weights=WIDTH * INNER // 2,
        bytes_activations=3 * (INNER + WIDTH) * 4,
        operations_int8=2 * 3 * WIDTH * INNER,
    )


def test_float_activations_are_float_operations() -> None:
    costs = costs_of(block_graph(ops.Activations(32)), sizes(), StepShape())
    assert costs["down"].operations_int8 == 0
    assert costs["down"].operations_f32 == 2 * WIDTH * INNER


def test_bfloat16_activations_are_operations_of_their_own() -> None:
    costs = costs_of(block_graph(ops.Activations(16)), sizes(), StepShape())
    assert costs["down"].operations_bf16 == 2 * WIDTH * INNER == costs["down"].operations
    assert costs["down"].operations_f32 == costs["down"].operations_int8 == 0


def test_an_embedding_reads_one_row_of_its_table_per_token() -> None:
    costs = costs_of(block_graph(), sizes(), StepShape((3,), (0,)))
    assert costs["embed"].bytes_weights == 3 * WIDTH // 2
    assert costs["embed"].bytes_activations == 3 * 4 + 3 * WIDTH * 4  # ids in, rows out


def test_only_selected_rows_reach_the_head() -> None:
    costs = costs_of(block_graph(), sizes(), StepShape((3, 4), (0, 9)))
    assert costs["head"].operations_int8 == 2 * 2 * WIDTH * VOCABULARY
    every = costs_of(block_graph(), sizes(), StepShape((3, 4), (0, 9), logit_rows=7))
    assert every["head"].operations_int8 == 7 * 2 * WIDTH * VOCABULARY


def test_attention_reads_what_is_visible_and_writes_what_is_new() -> None:
    # Two sequences: 1 row at context 10 (sees 11), and 3 rows from nothing (see 1 + 2 + 3).
    cost = costs_of(block_graph(), sizes(), StepShape((1, 3), (10, 0), kv="bfloat16"))["attention"]
    position = 2 * KV_HEADS * HEAD_DIM * 2
    assert cost.bytes_kv == (11 + 1 + 3 + 3) * position
    assert cost.operations_f32 == 4 * HEADS * HEAD_DIM * (11 + 6)


def test_a_window_bounds_what_attention_reads() -> None:
    step = StepShape((2,), (100,), kv="bfloat16")
    cost = costs_of(block_graph(window=16), sizes(), step)["attention"]
    assert cost.bytes_kv == (17 + 2) * 2 * KV_HEADS * HEAD_DIM * 2
    assert cost.operations_f32 == 4 * HEADS * HEAD_DIM * 2 * 16


@given(st.integers(1, 60), st.integers(0, 60), st.one_of(st.none(), st.integers(1, 70)))
def test_positions_and_pairs_equal_the_plain_count(rows: int, context: int, window) -> None:
    reach = window if window is not None else 10**9
    seen = [range(max(0, p - reach + 1), p + 1) for p in range(context, context + rows)]
    assert attended_pairs(rows, context, window) == sum(len(positions) for positions in seen)
    assert visible_positions(rows, context, window) == len({p for group in seen for p in group})


@given(steps)
def test_fusing_never_costs_more(step: StepShape) -> None:
    plain, fused = block_graph(), fuse(block_graph())
    assert len(fused.nodes) < len(plain.nodes)
    before, after = step_cost(plain, sizes(), step), step_cost(fused, sizes(), step)
    assert after.bytes_weights == before.bytes_weights and after.bytes_kv == before.bytes_kv
    assert after.operations_int8 == before.operations_int8
    assert after.bytes_activations < before.bytes_activations
    assert after.operations_f32 <= before.operations_f32


@given(st.integers(1, 50), st.integers(2, 8))
def test_rows_multiply_everything_but_the_weights(rows: int, times: int) -> None:
    graph, weights = block_graph(), sizes()
    values = values_of(graph, weights)
    few, many = (
        StepShape((rows,), (0,), logit_rows=rows),
        StepShape((rows * times,), (0,), logit_rows=rows * times),
    )
    for node in graph:
        if isinstance(node.op, ops.Attention | ops.Embed):
            continue
        one, other = (cost_of(node, weights, values, step) for step in (few, many))
        assert other.bytes_weights == one.bytes_weights
        assert other.bytes_activations == times * one.bytes_activations
        assert other.operations == times * one.operations


@given(steps)
def test_a_batch_reads_the_weights_once_and_each_cache_for_itself(step: StepShape) -> None:
    graph, weights = block_graph(), sizes()
    alone = [
        step_cost(graph, weights, StepShape((rows,), (context,)))
        for rows, context in zip(step.rows, step.contexts, strict=True)
    ]
    together = step_cost(graph, weights, step)
    assert together.bytes_kv == sum(cost.bytes_kv for cost in alone)
    assert together.operations == sum(cost.operations for cost in alone)
    assert together.bytes_weights <= sum(cost.bytes_weights for cost in alone)


def test_kv_bytes_of_a_token_count_all_layers() -> None:
    assert kv_token_bytes(block_graph(), "bfloat16") == 2 * KV_HEADS * HEAD_DIM * 2


def test_sizes_are_read_once_per_weight() -> None:
    class Counting(dict):
        reads = 0

        def __getitem__(self, name):
            self.reads += 1
            return super().__getitem__(name)

    weights = Counting(sizes())
    assert sizes_of(block_graph(), weights) == sizes()
    assert weights.reads == len(weights)


def test_a_step_needs_a_context_for_every_sequence() -> None:
    with pytest.raises(ValueError, match="context"):
        StepShape((1, 1), (0,))


def ceilings() -> Ceilings:
    def exactly(value: float) -> Rate:
        return Rate(value, value, value)

    rates = {"dram": 100.0, "cache": 1000.0, "int8": 10.0, "f32": 5.0, "bf16": 4.0}
    names = ("dram_1", "dram", "cache_1", "cache", "f32", "int8", "bf16")
    return Ceilings("avx2", 2, *[exactly(rates.get(name, 1.0)) for name in names])


def test_the_longer_of_moving_and_computing_is_predicted() -> None:
    cost = Cost(bytes_weights=300, bytes_kv=100, bytes_activations=1000, operations_int8=20)
    assert predict_s(cost, ceilings()) == pytest.approx(400 / 100 + 1000 / 1000)
    busy = replace(cost, operations_int8=200, operations_bf16=40, operations_f32=50)
    assert predict_s(busy, ceilings()) == pytest.approx(200 / 10 + 40 / 4 + 50 / 5)

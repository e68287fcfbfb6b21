"""Any way of cutting sequences into batches and scattering their pages gives the same logits."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.backends.batch import PAGE_SIZE, Batch, single
from slipstream.backends.reference import compile_reference
from slipstream.formats.tensor import DenseTensor
from slipstream.graph import ops
from slipstream.graph.graph import Builder, Graph

VOCABULARY, WIDTH = 7, 8


def two_attentions() -> Graph:
    """Two attentions over embeddings, one with a window: enough to see every page."""
    build = Builder()
    x = build.add("embed", ops.Embed("embed"), "ids")
    x = build.add("positions", ops.PositionEmbed("positions"), x)
    for layer, window in enumerate((None, 70)):
        op = ops.Attention(layer, 2, 1, 4, 0.7, window)
        qkv = ops.Linear(("q", "k", "v"), (None, None, None))
        h = build.add(f"attend{layer}", op, *build.add_many(f"qkv{layer}", qkv, x, outputs=3))
        x = build.add(f"add{layer}", ops.Add(), x, h)
    x = build.add("select", ops.Select(), x)
    build.add("head", ops.Linear(("embed",), (None,)), x)
    return Graph("two", tuple(build.nodes), WIDTH, VOCABULARY, 512)


GRAPH = two_attentions()


def exact_program():
    rng = np.random.default_rng(0)
    shapes = {
        "embed": (VOCABULARY, 8),
        "positions": (512, 8),
        "q": (8, 8),
        "k": (4, 8),
        "v": (4, 8),
    }
    weights = {
        name: DenseTensor(rng.normal(size=shape).astype(np.float32))
        for name, shape in shapes.items()
    }
    return compile_reference(GRAPH, weights, dtype="float64")


PROGRAM = exact_program()


def scattered_pages(lengths, rng):
    """Page tables over a shuffled pool with spare pages; unused entries are -1."""
    counts = [-(-length // PAGE_SIZE) for length in lengths]
    pool = rng.permutation(sum(counts) + 2).astype(np.int32)
    table = np.full((len(lengths), max(counts)), -1, np.int32)
    taken = 0
    for row, count in zip(table, counts, strict=True):
        row[:count] = pool[taken : taken + count]
        taken += count
    return table, len(pool)


def random_steps(prompts, table, rng):
    """Batches that together feed every prompt: random sequences, random chunks, all logits."""
    done = np.zeros(len(prompts), np.int64)
    while (left := np.array([len(ids) for ids in prompts]) - done).any():
        waiting = np.flatnonzero(left)
        chosen = rng.permutation(waiting)[: rng.integers(1, len(waiting) + 1)]
        counts = [int(rng.integers(1, left[s] + 1)) for s in chosen]
        yield (
            chosen,
            Batch(
                ids=np.concatenate(
                    [prompts[s][done[s] : done[s] + n] for s, n in zip(chosen, counts, strict=True)]
                ),
                row_starts=np.cumsum([0, *counts]).astype(np.int32),
                lengths=done[chosen].astype(np.int32),
                pages=table[chosen],
                logit_rows=np.arange(sum(counts), dtype=np.int32),
            ),
        )
        done[chosen] += counts


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 200), min_size=1, max_size=4), seed=st.integers(0, 2**32 - 1)
)
def test_any_cut_of_the_work_gives_the_same_logits(lengths, seed):
    rng = np.random.default_rng(seed)
    prompts = [rng.integers(0, VOCABULARY, length).astype(np.int32) for length in lengths]
    table, page_count = scattered_pages(lengths, rng)
    kv = PROGRAM.new_kv(page_count)
    rows = [[] for _ in prompts]
    for chosen, batch in random_steps(prompts, table, rng):
        logits = PROGRAM.step(batch, kv)
        for i, s in enumerate(chosen):
            rows[s].append(logits[batch.row_starts[i] : batch.row_starts[i + 1]])
    for ids, got in zip(prompts, rows, strict=True):
        whole = PROGRAM.step(single(ids, all_logits=True), PROGRAM.new_kv(4))
        np.testing.assert_allclose(np.concatenate(got), whole, rtol=1e-9, atol=1e-9)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 90), st.integers(1, 5)), min_size=1, max_size=5),
)
def test_positions_count_on_from_each_length(sequences):
    lengths, counts = zip(*sequences, strict=True)
    batch = Batch(
        ids=np.zeros(sum(counts), np.int32),
        row_starts=np.cumsum([0, *counts]).astype(np.int32),
        lengths=np.array(lengths, np.int32),
        pages=np.zeros((len(lengths), 2), np.int32),
        logit_rows=np.array([], np.int32),
    )
    expected = [length + i for length, count in sequences for i in range(count)]
    assert batch.positions().tolist() == expected
    batch.check(GRAPH, page_count=1)


def valid_batch(**changes):
    fields = dict(
        ids=np.array([1, 2, 3], np.int32),
        row_starts=np.array([0, 2, 3], np.int32),
        lengths=np.array([0, 64], np.int32),
        pages=np.array([[0, -1], [1, 2]], np.int32),
        logit_rows=np.array([1, 2], np.int32),
    )
    return Batch(**{**fields, **{k: np.array(v, np.int32) for k, v in changes.items()}})


@pytest.mark.parametrize(
    "changes",
    [
        dict(ids=[1, 2, VOCABULARY]),
        dict(ids=[1, 2, -1]),
        dict(row_starts=[0, 3, 3]),
        dict(row_starts=[1, 2, 3]),
        dict(row_starts=[0, 2, 4]),
        dict(lengths=[-1, 64]),
        dict(lengths=[0, 128]),
        dict(pages=[[0, -1], [1, 3]]),
        dict(pages=[[-1, -1], [1, 2]]),
        dict(logit_rows=[2, 1]),
        dict(logit_rows=[1, 3]),
    ],
    ids=str,
)
def test_check_refuses_what_is_out_of_range(changes):
    valid_batch().check(GRAPH, page_count=3)
    with pytest.raises(ValueError):
        valid_batch(**changes).check(GRAPH, page_count=3)

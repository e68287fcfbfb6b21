"""The contract of every architecture: join the family by adding a case to conftest.py."""

import numpy as np
from numpy.typing import NDArray

from slipstream.backends.batch import PAGE_SIZE, Batch, single


def distance(ours: NDArray, truth: NDArray) -> float:
    """Largest difference, relative to the largest logit."""
    return float(np.abs(ours - truth).max() / np.abs(truth).max())


def run_whole(program, ids):
    pages = -(-len(ids) // PAGE_SIZE)
    return program.step(single(ids, all_logits=True), program.new_kv(pages))


def test_logits_equal_those_of_transformers(tiny):
    program = tiny.program()
    for ids in tiny.prompts:
        assert distance(run_whole(program, ids), tiny.true_logits(ids)) < 1e-4


def test_graph_and_weights_are_whole(tiny):
    tiny.blueprint.graph.check()
    assert set(tiny.blueprint.graph.weight_names()) == set(tiny.weights)
    assert tiny.blueprint.graph.node("head").op.weights[0] in tiny.weights
    for name, tensor in tiny.weights.items():
        assert tuple(tensor.shape) == tiny.blueprint.shapes[name]


def test_chunks_and_decoding_equal_one_prefill(tiny):
    program, ids = tiny.program(), tiny.prompts[-1]
    whole = run_whole(program, ids)
    kv = program.new_kv(2)
    rows, start = [], 0
    for count in (5, 20, len(ids) - 28, 1, 1, 1):
        chunk = Batch(
            ids=ids[start : start + count],
            row_starts=np.array([0, count], np.int32),
            lengths=np.array([start], np.int32),
            pages=np.array([[1, 0]], np.int32),
            logit_rows=np.arange(count, dtype=np.int32),
        )
        rows.append(program.step(chunk, kv))
        start += count
    assert distance(np.concatenate(rows), whole) < 1e-5


def test_sequences_in_one_batch_do_not_see_each_other(tiny):
    program = tiny.program()
    rng = np.random.default_rng(1)
    counts = [len(tiny.prompts[-1]), 3, 40]
    prompts = [rng.integers(0, 97, count).astype(np.int32) for count in counts]
    batch = Batch(
        ids=np.concatenate(prompts),
        row_starts=np.cumsum([0, *counts]).astype(np.int32),
        lengths=np.zeros(3, np.int32),
        pages=np.array([[4, 1], [2, -1], [0, -1]], np.int32),
        logit_rows=(np.cumsum(counts) - 1).astype(np.int32),
    )
    together = program.step(batch, program.new_kv(5))
    for row, ids in zip(together, prompts, strict=True):
        assert distance(row, run_whole(program, ids)[-1]) < 1e-5

"""Divergence against scipy, and baselines that are stored or run again."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax as scipy_log_softmax
from scipy.stats import entropy

from slipstream.backends.batch import PAGE_SIZE, Batch
from slipstream.evaluate.divergence import (
    LiveBaseline,
    StoredBaseline,
    baseline_for,
    kl_divergence,
    top1_agreement,
)
from slipstream.evaluate.perplexity import log_softmax
from slipstream.graph.graph import Graph


class FakeKV:
    """Remembers nothing: the fake program's logits depend on id and position only."""

    def __init__(self, page_count: int) -> None:
        self.page_count, self.size_bytes = page_count, 0


class FakeProgram:
    """Known logits: row (id, position) of a fixed random table, plus noise of a given size."""

    def __init__(self, noise: float = 0.0, vocabulary: int = 11) -> None:
        self.graph = Graph("fake", (), 4, vocabulary, 512)
        random = np.random.default_rng(7)
        self.table = random.normal(size=(vocabulary, 512, vocabulary)).astype(np.float32) * 3
        self.table += (
            np.random.default_rng(8).normal(size=self.table.shape).astype(np.float32) * noise
        )
        self.rows_run = 0

    def new_kv(self, page_count: int) -> FakeKV:
        return FakeKV(page_count)

    def step(self, batch: Batch, kv: FakeKV) -> np.ndarray:
        batch.check(self.graph, kv.page_count)
        self.rows_run += len(batch.ids)
        return self.table[batch.ids, batch.positions()][batch.logit_rows]

    def capture(self, batch: Batch, kv: FakeKV, weights: tuple[str, ...]) -> dict[str, np.ndarray]:
        raise NotImplementedError


def chunks(count: int = 3, length: int = 2 * PAGE_SIZE) -> np.ndarray:
    return np.random.default_rng(9).integers(0, 11, (count, length)).astype(np.int32)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31), scale=st.floats(0.01, 30), vocabulary=st.integers(2, 400))
def test_kl_is_scipys(seed: int, scale: float, vocabulary: int) -> None:
    random = np.random.default_rng(seed)
    p, q = (
        random.normal(size=(5, vocabulary)).astype(np.float32) * np.float32(scale) for _ in range(2)
    )
    log_p, log_q = log_softmax(p.copy()), log_softmax(q.copy())
    expected = entropy(
        np.exp(scipy_log_softmax(p.astype(float), axis=1)),
        np.exp(scipy_log_softmax(q.astype(float), axis=1)),
        axis=1,
    )
    finite = np.isfinite(expected)  # scipy underflows to infinity where float64 q is zero
    assert np.allclose(kl_divergence(log_p, log_q)[finite], expected[finite], rtol=1e-4, atol=1e-5)


def test_kl_to_itself_is_zero_and_never_negative() -> None:
    logs = log_softmax(np.random.default_rng(1).normal(size=(50, 300)).astype(np.float32))
    near = log_softmax(
        logs
        + np.float32(1e-4) * np.random.default_rng(2).normal(size=logs.shape).astype(np.float32)
    )
    assert np.all(kl_divergence(logs, logs) == 0)
    assert np.all(kl_divergence(logs, near) >= 0)


def test_small_kl_is_resolved() -> None:
    logs = log_softmax(np.random.default_rng(3).normal(size=(200, 50_000)).astype(np.float32))
    other = log_softmax(
        logs
        + np.float32(0.03) * np.random.default_rng(4).normal(size=logs.shape).astype(np.float32)
    )
    exact = (np.exp(logs.astype(float)) * (logs.astype(float) - other.astype(float))).sum(axis=1)
    assert kl_divergence(logs, other).mean() == pytest.approx(exact.mean(), rel=1e-3)


def test_agreement_counts_equal_first_places() -> None:
    p = np.array([[0.0, 1, 2], [3, 0, 0]], np.float32)
    q = np.array([[0.0, 5, 2], [1, 0, 0]], np.float32)
    assert top1_agreement(p, q).tolist() == [False, True]


def test_stored_baseline_yields_what_the_live_one_does() -> None:
    live = LiveBaseline(FakeProgram(), chunks())
    stored = StoredBaseline(live, 11)
    for _ in range(2):  # the first time from the program, then from the file
        for index in (2, 0, 1):
            assert np.array_equal(
                np.concatenate(list(stored.pieces(index))), np.concatenate(list(live.pieces(index)))
            )


def test_stored_baseline_runs_the_program_once() -> None:
    program = FakeProgram()
    stored = baseline_for(program, chunks())
    assert isinstance(stored, StoredBaseline)
    for _ in range(3):
        list(stored.pieces(1))
    assert program.rows_run == chunks().shape[1] - 1

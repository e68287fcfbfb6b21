"""Intervals: they cover, they widen with correlation, and single blocks claim nothing."""

import numpy as np
import pytest
from scipy import stats

from slipstream.evaluate.interval import blocks_of, bootstrap


def test_agrees_with_scipy_on_single_positions() -> None:
    values = np.random.default_rng(1).exponential(size=200)
    ours = bootstrap(values[None], np.arange(200))
    theirs = stats.bootstrap(
        (values,), np.mean, method="BCa", n_resamples=9999, random_state=2
    ).confidence_interval
    assert ours.value == pytest.approx(values.mean())
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), rel=0.02)


def test_covers_the_truth_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(3)
    blocks, hits, trials = blocks_of(np.full(5, 320)), 0, 200
    for _ in range(trials):
        level = np.repeat(random.exponential(size=100), 16)  # neighbours share most of their value
        interval = bootstrap((level * random.exponential(size=1600))[None], blocks, resamples=600)
        hits += interval.low <= 1.0 <= interval.high
    assert 0.85 <= hits / trials <= 0.995


def test_correlated_neighbours_widen_it() -> None:
    values = np.repeat(np.random.default_rng(4).normal(size=25), 64)
    blocks = bootstrap(values[None], blocks_of(np.full(5, 320)))
    naive = bootstrap(values[None], np.arange(1600))
    assert blocks.high - blocks.low > 4 * (naive.high - naive.low)


def test_a_ratio_is_paired() -> None:
    base = np.random.default_rng(5).exponential(size=640) + 2
    ratio = bootstrap(
        np.stack([base + 0.01, base]),
        blocks_of(np.array([640])),
        lambda m: np.exp(m[..., 0] - m[..., 1]),
    )
    assert ratio.value == pytest.approx(np.exp(0.01))
    assert ratio.high - ratio.low < 1e-9  # the texts' own variance cancels


def test_one_block_says_nothing_of_the_spread() -> None:
    measured = bootstrap(np.array([[1.0, 2.0, 3.0]]), np.zeros(3, np.int64))
    assert measured.value == 2.0
    assert (measured.low, measured.high) == (-np.inf, np.inf)


def test_constant_values_have_no_spread() -> None:
    measured = bootstrap(np.zeros((1, 512)), blocks_of(np.array([512])))
    assert (measured.value, measured.low, measured.high) == (0, 0, 0)


def test_blocks_do_not_span_chunks_and_are_nearly_equal() -> None:
    blocks = blocks_of(np.array([511, 511, 10]))
    sizes = np.bincount(blocks)
    assert blocks[510] != blocks[511] and blocks[1021] != blocks[1022]
    assert (
        len(sizes) == 17 and sizes[:16].min() >= 63 and sizes[:16].max() <= 64 and sizes[16] == 10
    )


def test_the_same_data_give_the_same_interval() -> None:
    values = np.random.default_rng(6).normal(size=(1, 320))
    assert bootstrap(values, blocks_of(np.array([320]))) == bootstrap(
        values, blocks_of(np.array([320]))
    )

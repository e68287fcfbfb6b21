"""The noise: a function of its coordinates, and as random as it claims."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from slipstream.engine.exact import log
from slipstream.engine.noise import BLOCK, Noise, exponential

ALL = np.arange(1000)


def test_it_is_a_function_of_seed_index_and_id():
    first = Noise(11, 3).of(ALL)
    assert (first == Noise(11, 3).of(ALL)).all()
    assert (first != Noise(11, 4).of(ALL)).all() and (first != Noise(12, 3).of(ALL)).all()


@given(st.lists(st.integers(0, 200_000), min_size=1, max_size=50), st.integers(0, 2**64 - 1))
def test_an_id_s_noise_does_not_depend_on_the_others(ids, seed):
    together = Noise(seed, 5).of(np.array(ids))
    assert [Noise(seed, 5).of(np.array([i]))[0] for i in ids] == together.tolist()


def test_a_peak_is_the_highest_of_its_block():
    noise = Noise(7, 0)
    highest = noise.of(np.arange(50 * BLOCK)).reshape(50, BLOCK).max(axis=1)
    assert (highest == noise.peaks(np.arange(50))).all()


@pytest.mark.parametrize("ids", [np.arange(20_000), np.full(1, 17), np.arange(0, 640_000, 64)])
def test_it_is_gumbel_distributed(ids):
    """Over ids of one draw, over draws of one id, and over one id of every block."""
    rounds = max(1, 3000 // len(ids))
    values = np.concatenate([Noise(5, index).of(ids) for index in range(rounds)])
    assert stats.kstest(values, "gumbel_r").pvalue > 0.01  # the seed is fixed


def test_neighbors_are_independent():
    values = Noise(9, 9).of(np.arange(200_000))
    for lag in (1, 2, 32, BLOCK):
        assert abs(np.corrcoef(values[:-lag], values[lag:])[0, 1]) < 0.01
    draws = np.array([Noise(9, index).of(np.array([3, 4])) for index in range(1500)])
    assert abs(np.corrcoef(draws[:-1, 0], draws[1:, 0])[0, 1]) < 0.08
    assert abs(np.corrcoef(draws[:, 0], draws[:, 1])[0, 1]) < 0.08


def test_extreme_bits_give_finite_noise():
    values = exponential(np.array([0, 2**64 - 1], np.uint64))
    assert (values > 0).all() and np.isfinite(log(values)).all()

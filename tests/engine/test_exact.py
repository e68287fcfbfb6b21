"""The arithmetic of sampling: right to the last bits, and sums without an order."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipstream.engine.exact import EXP_LOWEST, WEIGHT_ONE, exp, inverse_of, log, log_of, weights


def test_exp_is_within_two_ulp():
    x = np.linspace(EXP_LOWEST, 0, 200_001, dtype=np.float32)
    right = np.exp(x.astype(np.float64))
    assert (np.abs(exp(x) - right) <= 2 * np.spacing(right.astype(np.float32))).all()
    assert exp(np.array([0, -200, -np.inf], np.float32)).tolist()[0] == 1
    assert (exp(np.array([-200, -np.inf], np.float32)) < 1e-13).all()


@given(st.floats(2.3e-308, 1.7e308))
def test_log_is_within_one_ulp(x):
    right = math.log(x)
    assert abs(log_of(x) - right) <= np.spacing(abs(right)) if right else log_of(x) == 0


def test_log_is_right_near_one_and_at_powers_of_two():
    x = np.array([1 - 2**-53, 1 + 2**-52, 0.5, 2, 2.0**1000, 2.0**-1000, math.sqrt(0.5)])
    assert log(x) == pytest.approx(np.log(x), rel=4e-16)


def test_weights_add_up_to_the_same_in_any_order():
    generator = np.random.default_rng(3)
    logits = (generator.normal(size=50_000) * 4).astype(np.float32)
    weight = weights(logits, logits.max(), inverse_of(0.8))
    assert weight.max() == WEIGHT_ONE and (weight == np.rint(weight)).all()
    total = int(sum(int(w) for w in weight))
    assert total == weight.sum() == generator.permutation(weight).cumsum()[-1]


def test_the_smallest_temperature_keeps_only_the_highest():
    logits = np.array([1, 3, 2, -np.inf], np.float32)
    assert weights(logits, logits.max(), inverse_of(5e-324)).tolist() == [0, WEIGHT_ONE, 0, 0]

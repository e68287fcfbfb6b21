"""GPTQ against a slow, obvious version of the paper, and against round-to-nearest."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.compress.passes.gptq import factor_hessian, gptq
from slipstream.compress.passes.grid import fit_grid, from_codes, to_codes
from slipstream.compress.passes.rtn import round_to_nearest
from slipstream.errors import NumericError
from slipstream.formats.tensor import Affine


def correlated(seed: int, rows: int = 400, width: int = 96) -> np.ndarray:
    """Inputs whose channels depend on each other, with a few loud ones, as in a transformer."""
    random = np.random.default_rng(seed)
    mixing = random.normal(size=(width, width)) / np.sqrt(width) + 0.3
    x = random.normal(size=(rows, width)) @ mixing
    x[:, ::17] *= 6
    return x.astype(np.float32)


def hessian_of(x: np.ndarray) -> np.ndarray:
    return (x.T @ x / len(x)).astype(np.float32)


def slow_gptq(weight: np.ndarray, hessian: np.ndarray, format: Affine) -> np.ndarray:
    """The paper's algorithm 1 with static groups: invert, factor, one column at a time, float64."""
    diagonal = np.diagonal(hessian).copy()
    order = np.argsort(-diagonal, kind="stable")
    damped = hessian.astype(np.float64) + 0.01 * diagonal.mean() * np.eye(len(diagonal))
    upper = np.linalg.cholesky(np.linalg.inv(damped[np.ix_(order, order)])).T
    grid = fit_grid(weight, format, "mse", importance=diagonal)
    group = weight.shape[1] // grid.scale.shape[1]
    w, q = weight.astype(np.float64)[:, order], np.zeros(weight.shape)
    for i in range(len(order)):
        g = order[i] // group
        scale, zero = grid.scale[:, g].astype(np.float32), grid.zero[:, g]
        column = w[:, i].astype(np.float32)
        q[:, order[i]] = from_codes(to_codes(column, scale, zero, format), scale, zero, format)
        error = (w[:, i] - q[:, order[i]]) / upper[i, i]
        w[:, i:] -= np.outer(error, upper[i, i:])
    return q


def output_error(weight: np.ndarray, rounded: np.ndarray, x: np.ndarray) -> float:
    return float(np.square(x.astype(np.float64) @ (weight - rounded).T).sum())


@pytest.mark.parametrize("zero", ["symmetric", "zero_point", "minimum"])
@pytest.mark.parametrize("group", [32, None])
def test_equals_the_slow_version(zero: str, group: int | None) -> None:
    x = correlated(1)
    weight = np.random.default_rng(2).normal(size=(24, 96)).astype(np.float32)
    format = Affine(4, group, zero)  # type: ignore[arg-type]
    fast = gptq(weight, factor_hessian(hessian_of(x)), format).tensor.dequantize()
    slow = slow_gptq(weight, hessian_of(x), format)
    # Float32 against float64: a code may tip over, and later ones follow it. The loss must not.
    assert np.mean(~np.isclose(fast, slow, atol=1e-5)) < 0.05
    assert output_error(weight, fast, x) == pytest.approx(output_error(weight, slow, x), rel=0.02)


@pytest.mark.parametrize("act_order", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
def test_beats_round_to_nearest_where_inputs_are_correlated(act_order: bool, bits: int) -> None:
    x = correlated(3)
    weight = np.random.default_rng(4).normal(size=(48, 96)).astype(np.float32)
    format = Affine(bits, 32)  # type: ignore[arg-type]
    clever = gptq(weight, factor_hessian(hessian_of(x), act_order=act_order), format).tensor
    plain = round_to_nearest(weight, format)
    assert output_error(weight, clever.dequantize(), x) < 0.5 * output_error(
        weight, plain.dequantize(), x
    )


@pytest.mark.parametrize("act_order", [True, False])
def test_equals_round_to_nearest_where_inputs_are_independent(act_order: bool) -> None:
    weight = np.random.default_rng(5).normal(size=(16, 64)).astype(np.float32)
    factor = factor_hessian(np.eye(64, dtype=np.float32), act_order=act_order)
    clever = gptq(weight, factor, Affine(4, 32)).tensor
    plain = round_to_nearest(weight, Affine(4, 32))
    assert np.array_equal(clever.codes, plain.codes)
    assert np.array_equal(clever.scales, plain.scales)


@pytest.mark.parametrize("act_order", [True, False])
@pytest.mark.parametrize("group", [16, 48, 96, None])
def test_the_loss_is_the_quadratic_form(act_order: bool, group: int | None) -> None:
    hessian = hessian_of(correlated(6))
    weight = np.random.default_rng(7).normal(size=(8, 96)).astype(np.float32)
    rounded = gptq(weight, factor_hessian(hessian, act_order=act_order), Affine(4, group))
    difference = (weight - rounded.tensor.dequantize()).astype(np.float64)
    damped = hessian + 0.01 * np.diagonal(hessian).mean() * np.eye(96)
    assert rounded.loss == pytest.approx(np.trace(difference @ damped @ difference.T), rel=1e-3)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    bits=st.sampled_from([4, 8]),
    group=st.sampled_from([16, 32, 48, None]),
)
def test_rows_do_not_know_each_other(seed: int, bits: int, group: int | None) -> None:
    x = correlated(seed, rows=150)
    weight = np.random.default_rng(seed + 1).normal(size=(6, 96)).astype(np.float32)
    factor, format = factor_hessian(hessian_of(x)), Affine(bits, group)  # type: ignore[arg-type]
    together = gptq(weight, factor, format).tensor.dequantize()
    apart = np.concatenate([gptq(row[None], factor, format).tensor.dequantize() for row in weight])
    assert np.allclose(together, apart, atol=1e-5) or np.mean(together != apart) < 0.05


def test_dead_inputs_are_simply_rounded() -> None:
    x = correlated(8)
    x[:, 5] = x[:, 40] = 0
    weight = np.random.default_rng(9).normal(size=(8, 96)).astype(np.float32)
    back = gptq(weight, factor_hessian(hessian_of(x)), Affine(8, 32)).tensor.dequantize()
    assert np.allclose(back[:, [5, 40]], weight[:, [5, 40]], atol=0.03)


def test_a_rank_deficient_hessian_is_damped() -> None:
    x = correlated(10, rows=20)  # 20 rows cannot span 96 inputs
    factor = factor_hessian(hessian_of(x))
    assert np.isfinite(factor.upper).all()


def test_damping_grows_until_it_suffices() -> None:
    hessian = np.eye(32, dtype=np.float32)
    hessian[0, 1] = hessian[1, 0] = 1.05  # an eigenvalue of -0.05: 1 % is too little, 10 % enough
    assert factor_hessian(hessian).damping == pytest.approx(0.1)


def test_a_hopeless_hessian_is_refused_in_words() -> None:
    hessian = np.eye(32, dtype=np.float32)
    hessian[0, 1] = hessian[1, 0] = 100
    with pytest.raises(NumericError, match="more text"):
        factor_hessian(hessian)
    with pytest.raises(NumericError, match="NaN"):
        factor_hessian(np.full((4, 4), np.nan))

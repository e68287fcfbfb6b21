"""Grids: what min-max spans, what the search gains, and that codes mean what the format says."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.compress.passes.grid import fit_grid, from_codes, to_codes
from slipstream.compress.passes.rtn import round_to_nearest
from slipstream.formats.affine import quantize_affine
from slipstream.formats.tensor import Affine

FORMATS = [
    Affine(bits, group, zero)
    for bits in (4, 8)
    for group in (16, 32, None)
    for zero in ("symmetric", "zero_point", "minimum")
]


def random_weight(seed: int, rows: int = 12, width: int = 96) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.standard_t(4, (rows, width)).astype(np.float32) * np.float32(0.05)


@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_minmax_is_quantize_affine(format: Affine) -> None:
    weight = random_weight(1)
    ours = round_to_nearest(weight, format, "minmax").dequantize()
    theirs = quantize_affine(weight, format).dequantize()
    # One divides by the scale, the other multiplies by its inverse: ties may fall apart by a code.
    step = np.repeat(
        np.abs(quantize_affine(weight, format).scales.astype(np.float32)), format.group or 96, 1
    )
    assert np.all(np.abs(ours - theirs) <= step * 1.001)
    assert np.mean(ours != theirs) < 0.01


@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_search_never_errs_more_than_minmax(format: Affine) -> None:
    weight = random_weight(2, rows=64)
    grouped = weight.reshape(64, -1, format.group or 96)

    def errors(clip: str) -> np.ndarray:
        back = round_to_nearest(weight, format, clip).dequantize().reshape(grouped.shape)  # type: ignore[arg-type]
        return ((back - grouped) ** 2).sum(axis=-1)

    assert np.all(errors("mse") <= errors("minmax") * (1 + 1e-5))


def test_search_gains_much_at_four_bits() -> None:
    weight, format = random_weight(3, rows=256), Affine(4, 32)
    plain = np.square(round_to_nearest(weight, format, "minmax").dequantize() - weight).sum()
    searched = np.square(round_to_nearest(weight, format, "mse").dequantize() - weight).sum()
    assert searched < 0.85 * plain


def test_importance_moves_error_away_from_what_matters() -> None:
    weight, format = random_weight(4, rows=128), Affine(4, 32)
    importance = np.where(np.arange(96) % 4 == 0, 100, 1).astype(np.float32)
    error = {
        name: np.square(round_to_nearest(weight, format, "mse", given).dequantize() - weight)
        for name, given in (("equal", None), ("weighted", importance))
    }
    important = importance > 1
    assert error["weighted"][:, important].sum() < error["equal"][:, important].sum()


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31), format=st.sampled_from(FORMATS), scale=st.floats(1e-6, 1e4))
def test_rounding_twice_changes_nothing(seed: int, format: Affine, scale: float) -> None:
    weight = random_weight(seed, rows=3) * np.float32(scale)
    grid = fit_grid(weight, format, "minmax", scale_dtype="float32")
    wide, zero = grid.scale.astype(np.float32)[..., None], grid.zero[..., None]
    codes = to_codes(weight.reshape(3, wide.shape[1], -1), wide, zero, format)
    again = to_codes(from_codes(codes, wide, zero, format), wide, zero, format)
    assert np.array_equal(codes, again)


@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_zeros_and_constants_survive(format: Affine) -> None:
    weight = np.zeros((4, 96), np.float32)
    weight[2], weight[3] = 0.5, -0.25
    back = round_to_nearest(weight, format, "mse").dequantize()
    assert np.array_equal(back[:2], weight[:2])
    assert np.allclose(back, weight, atol=2e-3)


def test_a_group_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="groups of 64"):
        round_to_nearest(random_weight(0), Affine(4, 64))

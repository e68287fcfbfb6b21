"""Affine integers: what codes mean, and how close rounding to them comes."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipstream.formats.affine import quantize_affine
from slipstream.formats.nibbles import pack_nibbles, unpack_nibbles
from slipstream.formats.tensor import Affine, AffineTensor, DenseTensor

FORMATS = [
    Affine(bits, group, zero)
    for bits in (4, 8)
    for group in (16, 32, 128, None)
    for zero in ("symmetric", "zero_point", "minimum")
]


def matrix(seed: int, shape=(5, 256), shift=0.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) + shift).astype(np.float32)


def dequantized_slowly(tensor: AffineTensor) -> np.ndarray:
    """The table of `formats.tensor.Affine`, one element at a time."""
    rows, width = tensor.shape
    group = tensor.format.group or width
    values = np.empty((rows, width), np.float32)
    for row in range(rows):
        for column in range(width):
            if tensor.format.bits == 4:
                byte = int(tensor.codes[row, column // 2])
                code = byte >> 4 if column % 2 else byte & 15
            else:
                code = int(tensor.codes[row, column])
            scale = np.float32(tensor.scales[row, column // group])
            if tensor.format.zero == "minimum":
                value = np.float32(scale * np.float32(code)) + np.float32(
                    tensor.offsets[row, column // group]
                )
            elif tensor.format.zero == "zero_point":
                value = scale * np.float32(code - int(tensor.offsets[row, column // group]))
            else:
                value = scale * np.float32(code - 8 if tensor.format.bits == 4 else code)
            values[row, column] = value
    return values


@given(st.integers(0, 2**32), st.integers(1, 5), st.integers(0, 9))
def test_nibbles_unpack_to_what_was_packed(seed, rows, pairs):
    codes = np.random.default_rng(seed).integers(0, 16, (rows, 2 * pairs), dtype=np.uint8)
    packed = pack_nibbles(codes)
    assert packed.shape == (rows, pairs) and packed.dtype == np.uint8
    np.testing.assert_array_equal(unpack_nibbles(packed), codes)


def test_the_low_nibble_is_the_even_input():
    assert pack_nibbles(np.array([[1, 2, 3, 4]])).tolist() == [[0x21, 0x43]]
    with pytest.raises(ValueError, match="even"):
        pack_nibbles(np.zeros((2, 3), np.uint8))


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("scale_dtype", ["float16", "float32"])
def test_dequantizing_means_what_the_table_says(format, scale_dtype):
    tensor = quantize_affine(matrix(1, (3, 128), 0.5), format, scale_dtype)
    assert tensor.scales.dtype == scale_dtype
    np.testing.assert_array_equal(tensor.dequantize(), dequantized_slowly(tensor))


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("shift", [0.0, 3.0, -3.0])
def test_rounding_errs_by_half_a_step_at_most(format, shift):
    weight = matrix(2, (7, 256), shift)
    tensor = quantize_affine(weight, format, "float32")
    groups = weight.reshape(7, tensor.scales.shape[1], -1)
    error = np.abs(tensor.dequantize().reshape(groups.shape) - groups).max(axis=-1)
    # Symmetric 4 bits reach 7 steps upwards of the 7.5 they span.
    steps = 0.5 + 1e-4 if format.zero != "zero_point" else 1.0 + 1e-4
    assert (error <= tensor.scales * steps + 1e-6).all()


@pytest.mark.parametrize("format", FORMATS)
def test_half_precision_scales_cost_little(format):
    weight = matrix(3)
    errors = [
        np.square(quantize_affine(weight, format, dtype).dequantize() - weight).mean()
        for dtype in ("float16", "float32")
    ]
    assert errors[0] <= errors[1] * 1.02 + 1e-6


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("value", [0.0, -0.0, 1e-30, -1e-30, 2.5, -2.5, 1e37, -1e38])
@pytest.mark.parametrize("scale_dtype", ["float16", "float32"])
def test_constant_and_extreme_groups_stay_finite(format, value, scale_dtype):
    weight = np.full((2, 256), value, np.float32)
    weight[1, 0] = -value
    back = quantize_affine(weight, format, scale_dtype).dequantize()
    assert np.isfinite(back).all()
    if abs(value) <= 2.5:
        np.testing.assert_allclose(back, weight, atol=abs(value) * 0.08 + 1e-7)


def test_zero_stays_zero_with_zero_points():
    weight = matrix(4, (4, 64), 2.0)
    weight[:, ::7] = 0
    back = quantize_affine(weight, Affine(4, 32, "zero_point"), "float32").dequantize()
    assert (back[:, ::7] == 0).all()


def test_what_cannot_be_rounded_is_refused():
    for bad in (np.inf, -np.inf, np.nan):
        weight = matrix(5)
        weight[3, 4] = bad
        with pytest.raises(ValueError, match="infinities or NaN"):
            quantize_affine(weight, Affine(4, 32))
    for shape, group in (
        ((4, 100), 32),
        ((4, 96), 24),
        ((4, 100), None),
        ((64,), 32),
        ((0, 64), 32),
        ((2, 2, 64), 32),
    ):
        with pytest.raises(ValueError, match=r"groups of|only a matrix"):
            quantize_affine(np.zeros(shape, np.float32), Affine(4, group))


def test_a_matrix_of_several_pieces_is_rounded_like_its_rows():
    weight = matrix(6, (700, 1024))
    whole = quantize_affine(weight, Affine(4, 64, "zero_point"))
    for row in (0, 255, 256, 699):
        part = quantize_affine(weight[row : row + 1], Affine(4, 64, "zero_point"))
        np.testing.assert_array_equal(whole.codes[row], part.codes[0])
        np.testing.assert_array_equal(whole.offsets[row], part.offsets[0])
    np.testing.assert_array_equal(whole.dequantize()[690:], dequantized_slowly(
        AffineTensor(whole.format, whole.codes[690:], whole.scales[690:], whole.offsets[690:])
    ))  # fmt: skip


def test_sizes_and_shapes_are_counted():
    tensor = quantize_affine(matrix(7, (4, 64)), Affine(4, 32, "zero_point"))
    assert tensor.shape == (4, 64) and tensor.size_bytes == 128 + 16 + 8
    dense = DenseTensor(np.ones((2, 3), ml_dtypes.bfloat16))
    assert dense.size_bytes == 12 and dense.dequantize().dtype == np.float32

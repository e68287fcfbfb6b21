"""Codes of 3 and 2 bits: codes of 4 bits in a smaller range."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from slipstream.formats.affine import quantize_affine
from slipstream.formats.nibbles import unpack_nibbles
from slipstream.formats.tensor import Affine


@pytest.mark.parametrize("bits", [2, 3])
@pytest.mark.parametrize("zero", ["symmetric", "zero_point", "minimum"])
def test_few_bits_are_four_bits_in_a_smaller_range(bits: int, zero: str) -> None:
    format = Affine(bits, 32, zero)  # type: ignore[arg-type]
    weight = np.random.default_rng(bits).normal(size=(6, 96)).astype(np.float32)
    tensor = quantize_affine(weight, format)
    low, high = format.code_range
    codes = unpack_nibbles(tensor.codes)
    assert high - low == 2**bits - 1 and codes.min() == low and codes.max() == high
    as_four = replace(tensor, format=replace(format, bits=4))
    assert np.array_equal(as_four.dequantize(), tensor.dequantize())
    # Rounding errs by at most half a step wherever the span covers the value (all, but the ends
    # of a symmetric span).
    step = np.repeat(tensor.scales.astype(np.float32), 32, axis=1)
    within = np.abs(weight - tensor.dequantize()) <= 0.51 * step + 1e-3
    assert within.mean() > (0.9 if zero == "symmetric" else 0.99)


def test_more_bits_err_less() -> None:
    weight = np.random.default_rng(1).normal(size=(8, 128)).astype(np.float32)
    errors = [
        np.square(weight - quantize_affine(weight, Affine(bits, 32)).dequantize()).mean()  # type: ignore[arg-type]
        for bits in (2, 3, 4, 5, 6, 8)
    ]
    assert all(a > 3 * b for a, b in pairwise(errors))


@pytest.mark.parametrize("bits", [5, 6])
@pytest.mark.parametrize("zero", ["symmetric", "zero_point", "minimum"])
def test_six_and_five_bits_are_eight_bits_in_a_smaller_range(bits: int, zero: str) -> None:
    format = Affine(bits, 32, zero)  # type: ignore[arg-type]
    weight = np.random.default_rng(bits).normal(size=(6, 96)).astype(np.float32)
    tensor = quantize_affine(weight, format)
    low, high = format.code_range
    assert high - low == 2**bits - 1 and tensor.codes.min() == low and tensor.codes.max() == high
    as_eight = replace(tensor, format=replace(format, bits=8))
    assert np.array_equal(tensor.dequantize(), as_eight.dequantize())


def test_a_file_holds_codes_without_gaps() -> None:
    weight = np.random.default_rng(0).normal(size=(6, 64)).astype(np.float32)
    for bits in (2, 3, 4, 5, 6, 8):
        tensor = quantize_affine(weight, Affine(bits, 32))  # type: ignore[arg-type]
        assert tensor.file_bytes == 6 * 64 * bits // 8 + 6 * 2 * 2

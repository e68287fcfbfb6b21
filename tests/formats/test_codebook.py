"""Codebooks: what codes stand for, how scales are kept, and how a matrix is rounded to them."""

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipstream.formats.codebook import NF4_UNIT, Codebook, CodebookTensor
from slipstream.formats.codebook_round import nearest_codes, quantize_codebook
from slipstream.formats.nested import NestedTensor
from slipstream.formats.nibbles import pack_nibbles, unpack_nibbles
from slipstream.formats.tensor import Affine, map_arrays

NAMES = ("nf4", "iq4_nl", "mxfp4")
# QLoRA's table, as bitsandbytes has it.
QLORA = [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453]
QLORA += [-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0]
QLORA += [0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224]
QLORA += [0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0]


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_levels_are_those_of_the_formats() -> None:
    iq4 = gguf.quants.IQ4_NL.kvalues
    assert Codebook("iq4_nl", 32).levels.tolist() == list(iq4)
    assert Codebook("mxfp4", 32).levels.tolist() == list(gguf.quants.MXFP4.kvalues)
    rounded = np.rint(np.array(QLORA) * NF4_UNIT)
    assert Codebook("nf4", 64).levels.tolist() == rounded.tolist()


def test_rounding_the_levels_of_nf4_costs_a_third_of_a_percent_at_most() -> None:
    """The claim of formats/codebook.py, on normal weights in groups of 64."""
    weight = normal(2000, 64)
    weight /= np.abs(weight).max(axis=1, keepdims=True)
    exact = np.array(QLORA, np.float32)
    codes = np.abs(weight[..., None] - exact).argmin(axis=-1)
    rounded = Codebook("nf4", 64).levels / np.float32(NF4_UNIT)
    own = np.square(exact[codes] - weight).mean()
    ours = np.square(rounded[codes] - weight).mean()
    assert 0.999 < ours / own < 1.003


@pytest.mark.parametrize("name", NAMES)
@given(seed=st.integers(0, 1000))
def test_what_is_on_the_levels_comes_back_exactly(name: str, seed: int) -> None:
    draw = np.random.default_rng(seed)
    format = Codebook(name, 32)  # type: ignore[arg-type]
    codes = draw.integers(0, 16, (3, 64)).astype(np.uint8)
    scales = np.full((3, 2), 130 if name == "mxfp4" else 0.125)
    stored = scales.astype(np.uint8 if name == "mxfp4" else np.float16)
    tensor = CodebookTensor(format, pack_nibbles(codes), stored)
    values = tensor.dequantize()
    assert np.array_equal(values, format.levels[codes] * (4.0 if name == "mxfp4" else 0.125))
    wide = np.full((3, 2), 4.0 if name == "mxfp4" else 0.125, np.float32)
    again = nearest_codes(values.reshape(3, 2, 32), wide, format)
    assert np.array_equal(format.levels[again].ravel(), format.levels[codes].ravel())


@pytest.mark.parametrize("name", NAMES)
def test_a_search_errs_less_than_spanning(name: str) -> None:
    weight = normal(16, 128, seed=3)
    format = Codebook(name, 32)  # type: ignore[arg-type]
    errors = [
        np.square(quantize_codebook(weight, format, search).dequantize() - weight).mean()
        for search in (True, False)
    ]
    assert errors[0] < errors[1] < 0.02
    assert np.array_equal(quantize_codebook(weight * 0, format).dequantize(), weight * 0)


def test_important_inputs_err_less() -> None:
    weight, format = normal(16, 128, seed=4), Codebook("iq4_nl", 32)
    importance = np.where(np.arange(128) % 4 == 0, np.float32(100), np.float32(0.01))
    plain = quantize_codebook(weight, format).dequantize() - weight
    weighed = quantize_codebook(weight, format, importance=importance).dequantize() - weight
    assert np.square(weighed[:, ::4]).sum() < np.square(plain[:, ::4]).sum()


def test_matrices_that_cannot_be_rounded_are_refused() -> None:
    with pytest.raises(ValueError, match="infinities"):
        quantize_codebook(np.full((2, 32), np.inf, np.float32), Codebook("nf4", 32))
    with pytest.raises(ValueError, match="groups of 64"):
        quantize_codebook(normal(2, 96), Codebook("nf4", 64))


@pytest.mark.parametrize("name", NAMES)
def test_the_affine_form_has_the_same_values(name: str) -> None:
    tensor = quantize_codebook(normal(5, 64), Codebook(name, 32))  # type: ignore[arg-type]
    assert tensor.affine().format == Affine(8, 32)
    assert np.array_equal(tensor.affine().dequantize(), tensor.dequantize())


def test_nested_scales_are_products() -> None:
    draw = np.random.default_rng(5)
    codes = draw.integers(0, 16, (4, 512)).astype(np.uint8)
    scales = draw.integers(0, 64, (4, 16)).astype(np.int8)
    supers = normal(4, 2).astype(np.float16)
    tensor = NestedTensor(
        Affine(4, 32, "minimum"), pack_nibbles(codes), scales, supers, scales, supers
    )
    wide = np.repeat(supers.astype(np.float64), 256, axis=1) * np.repeat(scales, 32, axis=1)
    assert np.array_equal(tensor.dequantize(), (wide * codes - wide).astype(np.float32))
    assert tensor.size_bytes == 4 * (256 + 16 + 4 + 16 + 4)


def test_arrays_change_together() -> None:
    tensor = quantize_codebook(normal(6, 64), Codebook("nf4", 32))
    rows = map_arrays(tensor, lambda array: array[2:4])
    assert np.array_equal(rows.dequantize(), tensor.dequantize()[2:4])
    assert np.array_equal(unpack_nibbles(rows.codes), unpack_nibbles(tensor.codes)[2:4])

"""Blocks that we write mean to the gguf package, and to our reader, what they were made from."""

import gguf
import numpy as np
import pytest

from slipstream.formats.affine import quantize_affine
from slipstream.formats.ggml import dequantize_ggml
from slipstream.formats.ggml_k_write import round_k
from slipstream.formats.ggml_write import dense_bytes, exact_bytes, exact_type
from slipstream.formats.tensor import Affine, AffineTensor, Codebook, CodebookTensor

KIND = gguf.GGMLQuantizationType


def matrix(rows=24, width=512, seed=0):
    return (np.random.default_rng(seed).standard_normal((rows, width)) / 20).astype(np.float32)


EXACT = [
    (Affine(4, 32), "Q4_0"), (Affine(3, 32), "Q4_0"), (Affine(4, 128), "Q4_0"), (Affine(4, None), "Q4_0"),
    (Affine(4, 32, "minimum"), "Q4_1"), (Affine(5, 64), "Q5_0"), (Affine(6, 32), "Q8_0"), (Affine(8, None), "Q8_0"),
]  # fmt: skip


@pytest.mark.parametrize(("form", "expected"), EXACT, ids=str)
def test_what_a_type_holds_is_written_to_the_bit(form, expected):
    tensor = quantize_affine(matrix(), form)
    assert exact_type(tensor) == expected
    raw = exact_bytes(tensor, expected)
    assert np.array_equal(gguf.dequantize(raw, KIND[expected]), tensor.dequantize())
    assert np.array_equal(dequantize_ggml(raw, KIND[expected].value), tensor.dequantize())


def test_five_bits_with_a_minimum_are_q5_1():
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 32, (4, 64)).astype(np.int8)
    scales, offsets = rng.uniform(0.01, 1, (2, 4, 2)).astype(np.float16)
    tensor = AffineTensor(Affine(8, 32, "minimum"), codes, scales, offsets)
    assert exact_type(tensor) == "Q5_1"
    raw = exact_bytes(tensor, "Q5_1")
    assert np.array_equal(gguf.dequantize(raw, KIND.Q5_1), tensor.dequantize())


def test_codebooks_are_written_to_the_bit():
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 256, (4, 32)).astype(np.uint8)
    scales = rng.uniform(0.01, 1, (4, 2)).astype(np.float16)
    for name, type in (("iq4_nl", "IQ4_NL"), ("nf4", "Q8_0")):  # of NF4 the values, in 8 bits
        tensor = CodebookTensor(Codebook(name, 32), codes, scales)
        assert exact_type(tensor) == type
        raw = exact_bytes(tensor, type)
        assert np.array_equal(gguf.dequantize(raw, KIND[type]), tensor.dequantize())


def test_what_no_type_holds_is_known():
    weight = matrix()
    assert exact_type(quantize_affine(weight, Affine(4, 16))) is None
    assert exact_type(quantize_affine(weight, Affine(4, 32), "float32")) is None
    assert exact_type(quantize_affine(weight, Affine(8, 32, "zero_point"))) is None
    assert exact_type(quantize_affine(weight, Affine(4, 32, "zero_point"))) is None
    with pytest.raises(ValueError, match="F16"):
        dense_bytes(np.array([[1e5]], np.float32), "F16")


# Twice the error of a uniform step over ±3σ would be a mistake in packing, not in rounding.
@pytest.mark.parametrize(("type", "error"), [("Q4_K", 0.08), ("Q5_K", 0.04), ("Q6_K", 0.02)])
def test_super_blocks_are_read_by_gguf_and_lie_near(type, error):
    weight = matrix()
    raw = round_k(weight, np.ones(512, np.float32), type)
    found = gguf.dequantize(raw, KIND[type])
    assert np.array_equal(found, dequantize_ggml(raw, KIND[type].value))
    assert np.sqrt(np.square(found - weight).mean()) < error * weight.std()


@pytest.mark.parametrize("type", ["Q4_K", "Q5_K", "Q6_K"])
def test_importance_moves_the_error_to_where_it_matters_least(type):
    weight = matrix()
    importance = np.random.default_rng(1).lognormal(0, 2, 512).astype(np.float32)

    def loss(shares):
        found = gguf.dequantize(round_k(weight, shares, type), KIND[type])
        return (importance * np.square(found - weight)).sum()

    assert loss(importance) < 0.95 * loss(np.ones(512, np.float32))


@pytest.mark.parametrize("type", ["Q4_K", "Q5_K", "Q6_K"])
def test_super_blocks_of_zeros_and_of_one_value_stay(type):
    weight = np.zeros((2, 512), np.float32)
    weight[1] = 0.5
    found = gguf.dequantize(round_k(weight, np.ones(512, np.float32), type), KIND[type])
    assert np.array_equal(found[0], weight[0])
    np.testing.assert_allclose(found[1], 0.5, rtol=2e-2)

"""GGML's types against the gguf package, on random blocks with every kind of scale."""

import gguf
import numpy as np
import pytest

from slipstream.errors import UnsupportedError
from slipstream.formats.ggml import GGML_TYPES, dequantize_ggml, is_supported, to_tensor
from slipstream.formats.tensor import AffineTensor, DenseTensor, Quantized

IDS = {kind.name: number for number, kind in GGML_TYPES.items()}
BLOCK_TYPES = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"]
BLOCK_TYPES += ["IQ4_NL", "IQ4_XS", "MXFP4", "TQ1_0", "TQ2_0"]
FLOAT_TYPES = ["F32", "F16", "BF16"]
SPECIAL_BITS = [0x0000, 0x8000, 0x0001, 0x03FF, 0x7BFF, 0x7C00, 0xFC00, 0x7E01, 0xFFFF, 0x3C00]


def bits(values):
    """For comparing bit by bit, all NaN being one."""
    values = np.where(np.isnan(values), np.float32(np.nan), values)
    return values.astype(np.float32).view(np.uint32)


def random_raw(name: str, rows: int, blocks: int, seed: int) -> np.ndarray:
    kind = GGML_TYPES[IDS[name]]
    generator = np.random.default_rng(seed)
    return generator.integers(0, 256, (rows, blocks * kind.bytes), dtype=np.uint8)


def expected(raw: np.ndarray, name: str) -> np.ndarray:
    with np.errstate(all="ignore"):
        return gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[name])


def test_the_table_of_types_agrees_with_the_gguf_package():
    ours = {
        name: (GGML_TYPES[number].block, GGML_TYPES[number].bytes) for name, number in IDS.items()
    }
    theirs = {kind.name: sizes for kind, sizes in gguf.GGML_QUANT_SIZES.items()}
    assert ours == theirs
    assert {name: int(gguf.GGMLQuantizationType[name]) for name in IDS} == IDS


@pytest.mark.parametrize("name", BLOCK_TYPES + FLOAT_TYPES)
@pytest.mark.parametrize("seed", range(3))
def test_random_bytes_dequantize_to_the_same_bits(name, seed):
    raw = random_raw(name, 37, 7, seed)
    np.testing.assert_array_equal(bits(dequantize_ggml(raw, IDS[name])), bits(expected(raw, name)))


@pytest.mark.parametrize("name", BLOCK_TYPES)
def test_every_special_scale_dequantizes_to_the_same_bits(name):
    kind = GGML_TYPES[IDS[name]]
    blocks = random_raw(name, len(SPECIAL_BITS), 1, seed=7)
    pairs = [
        (position, special)
        for position in range(0, kind.bytes - 1)
        for special in range(len(SPECIAL_BITS))
    ]
    raw = blocks[[special for _, special in pairs]].copy()
    for row, (position, special) in enumerate(pairs):
        raw[row, position : position + 2] = np.array([SPECIAL_BITS[special]], "<u2").view(np.uint8)
    np.testing.assert_array_equal(bits(dequantize_ggml(raw, IDS[name])), bits(expected(raw, name)))


def test_every_exponent_of_mxfp4_agrees():
    raw = random_raw("MXFP4", 256, 1, seed=3)
    raw[:, 0] = np.arange(256)
    np.testing.assert_array_equal(
        bits(dequantize_ggml(raw, IDS["MXFP4"])), bits(expected(raw, "MXFP4"))
    )


@pytest.mark.parametrize("name", BLOCK_TYPES)
def test_the_tensor_of_a_block_type_is_quantized_and_has_the_same_bits(name):
    kind = GGML_TYPES[IDS[name]]
    rows, blocks = 4000, 3  # several pieces
    raw = random_raw(name, rows, blocks, seed=11)
    tensor = to_tensor(raw.reshape(-1), IDS[name], (rows, blocks * kind.block))
    assert isinstance(tensor, Quantized)
    assert tensor.shape == (rows, blocks * kind.block)
    group = tensor.format.group
    assert group and tensor.scales.shape == (rows, blocks * kind.block // group)
    np.testing.assert_array_equal(bits(tensor.dequantize()), bits(expected(raw, name)))


@pytest.mark.parametrize("name", BLOCK_TYPES)
def test_a_fused_multiply_add_would_give_the_same_bits(name):
    """What kernels rely on: scale · q is exact, so rounding happens once, in the addition."""
    kind = GGML_TYPES[IDS[name]]
    raw = random_raw(name, 50, 1, seed=13)
    tensor = to_tensor(raw.reshape(-1), IDS[name], (50, kind.block))
    if not isinstance(tensor, AffineTensor):
        tensor = tensor.affine()
    codes = tensor.codes.astype(np.int64)
    if tensor.format.nibbles:
        codes = (
            np.stack([tensor.codes & 15, tensor.codes >> 4], axis=-1)
            .astype(np.int64)
            .reshape(tensor.shape)
        )
        codes -= {"symmetric": 8, "zero_point": 1, "minimum": 0}[tensor.format.zero]
    scales = np.repeat(tensor.scales.astype(np.float64), tensor.format.group, axis=1)
    product = np.where(np.isfinite(scales), scales, 0) * codes
    product = np.where(np.abs(product) < np.finfo(np.float32).max, product, 0)
    assert (product.astype(np.float32) == product).all()


@pytest.mark.parametrize("name", FLOAT_TYPES)
def test_floats_are_views_of_the_file(name):
    raw = random_raw(name, 1, 24, seed=5).reshape(-1)
    tensor = to_tensor(raw, IDS[name], (2, 3, 4))
    assert isinstance(tensor, DenseTensor) and tensor.shape == (2, 3, 4)
    assert np.shares_memory(tensor.data, raw)


@pytest.mark.parametrize("name", BLOCK_TYPES)
def test_one_block_of_a_read_only_file_is_left_as_it_is(name):
    raw = random_raw(name, 1, 1, seed=17).reshape(-1)
    before = raw.copy()
    raw.flags.writeable = False
    tensor = to_tensor(raw, IDS[name], (1, GGML_TYPES[IDS[name]].block))
    np.testing.assert_array_equal(bits(tensor.dequantize()), bits(expected(before[None], name)))
    assert (raw == before).all()


def test_stacked_matrices_become_dense():
    raw = random_raw("Q8_0", 6, 2, seed=5)
    tensor = to_tensor(raw.reshape(-1), IDS["Q8_0"], (2, 3, 64))
    assert isinstance(tensor, DenseTensor)
    np.testing.assert_array_equal(bits(tensor.data), bits(expected(raw, "Q8_0").reshape(2, 3, 64)))


def test_unknown_and_undecoded_types_are_refused_in_words():
    assert not is_supported(IDS["IQ1_S"]) and not is_supported(999)
    with pytest.raises(UnsupportedError, match="IQ1_S"):
        to_tensor(np.zeros(50, np.uint8), IDS["IQ1_S"], (1, 256))
    with pytest.raises(UnsupportedError, match="type 999"):
        dequantize_ggml(np.zeros(50, np.uint8), 999)


@pytest.mark.parametrize("shape", [(2, 32), (1, 31), (33,), (0, 32)])
def test_bytes_that_do_not_fit_the_shape_are_refused(shape):
    with pytest.raises(ValueError, match="Q4_0"):
        to_tensor(np.zeros(18, np.uint8), IDS["Q4_0"], shape)

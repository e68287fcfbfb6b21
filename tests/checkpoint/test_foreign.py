"""Other libraries' layouts, packed here as those libraries pack them, are read to the same values.

The packers below are the loops of AutoGPTQ, AutoAWQ and bitsandbytes in plain form; the values that
are expected come from the formulas those libraries document.
"""

import json
import random
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from slipstream.checkpoint.folder import CODECS, FolderCheckpoint
from slipstream.checkpoint.foreign import ForeignReader
from slipstream.checkpoint.gptq_write import common_format, encode
from slipstream.checkpoint.safetensors_write import write_safetensors
from slipstream.errors import FileFormatError, SlipstreamError, UnsupportedError
from slipstream.formats.affine import quantize_affine
from slipstream.formats.codebook import Codebook, CodebookTensor
from slipstream.formats.tensor import Affine, AffineTensor, DenseTensor

X = "model.layers.0.mlp.up_proj"
AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]


class Memory:
    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        self.arrays = dict(arrays)

    def names(self) -> list[str]:
        return sorted(self.arrays)

    def array(self, name: str) -> np.ndarray:
        return self.arrays[name]


def read(arrays: Mapping[str, np.ndarray], **settings: Any):
    named = {f"{X}.{part}": array for part, array in arrays.items()}
    reader = ForeignReader(Memory(named), CODECS[settings["quant_method"]](settings))
    assert reader.names() == [f"{X}.weight"]
    return reader.tensor(f"{X}.weight")


def words_down(values: np.ndarray, bits: int) -> np.ndarray:
    """[N, M] → int32 [N·bits/32, M]: AutoGPTQ's packing, as one number of many bits a column."""
    packed = np.zeros((len(values) * bits // 32, values.shape[1]), np.uint32)
    for column in range(values.shape[1]):
        whole = sum(int(value) << (bits * i) for i, value in enumerate(values[:, column]))
        packed[:, column] = [(whole >> (32 * i)) & 0xFFFFFFFF for i in range(len(packed))]
    return packed.view(np.int32)


def gptq(bits: int, group: int, *, order: np.ndarray | None = None, shift: int = 1, sym=False):
    """What GPTQ stores of random codes, and the values [O, I] that they mean."""
    rng = np.random.default_rng(bits * group)
    inputs, outputs = 128, 32
    groups = inputs // group
    codes = rng.integers(0, 1 << bits, (inputs, outputs))
    zeros = np.full((groups, outputs), 1 << bits - 1)
    if not sym:
        zeros = rng.integers(0, 1 << bits, (groups, outputs))
    scales = rng.uniform(0.001, 0.1, (groups, outputs)).astype(np.float16)
    where = np.arange(inputs) // group if order is None else order
    arrays = {
        "qweight": words_down(codes, bits),
        "qzeros": words_down(((zeros - shift) % (1 << bits)).T, bits).T.copy(),
        "scales": scales,
        "g_idx": where.astype(np.int32),
    }
    values = (codes - zeros[where]).astype(np.float32) * scales[where].astype(np.float32)
    return arrays, values.T


@pytest.mark.parametrize("sym", [False, True])
@pytest.mark.parametrize(("layout", "shift"), [("gptq", 1), ("gptq_v2", 0)])
@pytest.mark.parametrize("group", [32, 128])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_gptq_is_read_without_loss(bits, group, layout, shift, sym):
    arrays, values = gptq(bits, group, shift=shift, sym=sym)
    tensor = read(arrays, quant_method="gptq", bits=bits, checkpoint_format=layout)
    assert isinstance(tensor, AffineTensor) and tensor.format.bits == bits
    assert tensor.format.zero == ("symmetric" if sym else "zero_point")
    assert np.array_equal(tensor.dequantize(), values)


@pytest.mark.parametrize("sym", [False, True])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_gptq_is_written_as_it_was_read(bits, sym):
    arrays, _ = gptq(bits, 32, sym=sym)
    tensor = read(arrays, quant_method="gptq", bits=bits)
    written = encode("gptq", f"{X}.weight", tensor)
    assert written.keys() == {f"{X}.{part}" for part in arrays}
    for part, array in arrays.items():
        assert written[f"{X}.{part}"].dtype == array.dtype
        assert np.array_equal(written[f"{X}.{part}"], array), part


def test_awq_is_written_as_it_was_read():
    arrays, _ = awq()
    written = encode("awq", f"{X}.weight", read(arrays, quant_method="awq"))
    assert written.keys() == {f"{X}.{part}" for part in arrays}
    assert all(np.array_equal(written[f"{X}.{part}"], array) for part, array in arrays.items())


def test_formats_that_these_libraries_lack_are_refused_with_the_cure():
    weight = np.random.default_rng(0).normal(size=(32, 64)).astype(np.float32)
    forms = [Affine(4, 32), Affine(4, 64), Affine(8, 32), Affine(4, 32, "minimum")]
    made = [quantize_affine(weight, form) for form in forms]
    names = [f"model.layers.{layer}.mlp.up_proj.weight" for layer in range(2)]
    for library, pair in (("gptq", made[:2]), ("gptq", made[3:]), ("awq", made[2:3])):
        tensors = dict(zip(names, pair, strict=False))
        with pytest.raises(UnsupportedError, match="slipstream quantize"):
            common_format(library, tensors)
    fine = quantize_affine(weight / 3, Affine(4, 32), "float32")
    with pytest.raises(UnsupportedError, match="float16 does not hold"):
        encode("gptq", names[0], fine)


def test_gptq_without_its_order_is_in_order_and_dynamic_bits_are_seen():
    arrays, values = gptq(8, 32)
    del arrays["g_idx"]
    tensor = read(arrays, quant_method="gptq", bits=4, dynamic={"+:x": {"bits": 8}})
    assert np.array_equal(tensor.dequantize(), values)
    with pytest.raises(FileFormatError, match="8 bits, the config says 4"):
        read(arrays, quant_method="gptq", bits=4)


def test_gptq_with_act_order_is_dense_with_the_values_of_autogptq():
    order = np.random.default_rng(1).permutation(np.arange(128) // 32)
    arrays, values = gptq(4, 32, order=order)
    tensor = read(arrays, quant_method="gptq", bits=4, desc_act=True)
    assert isinstance(tensor, DenseTensor) and tensor.data.dtype == np.float16
    assert np.array_equal(tensor.data, values.astype(np.float16))


def awq(group: int = 32):
    rng = np.random.default_rng(group)
    inputs, outputs = 64, 24
    codes = rng.integers(0, 16, (inputs, outputs))
    zeros = rng.integers(0, 16, (inputs // group, outputs))
    scales = rng.uniform(0.001, 0.1, zeros.shape).astype(np.float16)

    def packed(values: np.ndarray) -> np.ndarray:
        result = np.zeros((len(values), outputs // 8), np.uint32)
        for column in range(outputs // 8):
            for place, output in enumerate(AWQ_ORDER):
                result[:, column] |= values[:, column * 8 + output].astype(np.uint32) << (4 * place)
        return result.view(np.int32)

    arrays = {"qweight": packed(codes), "qzeros": packed(zeros), "scales": scales}
    steps = (codes - np.repeat(zeros, group, 0)).astype(np.float32)
    return arrays, (steps * np.repeat(scales, group, 0).astype(np.float32)).T


@pytest.mark.parametrize("group", [16, 64])
def test_awq_is_read_without_loss(group):
    arrays, values = awq(group)
    tensor = read(arrays, quant_method="awq", bits=4, version="gemm")
    assert isinstance(tensor, AffineTensor) and np.array_equal(tensor.dequantize(), values)


def test_layouts_of_one_gpu_are_refused():
    for settings in (
        {"quant_method": "awq", "version": "gemv"},
        {"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"},
        {"quant_method": "gptq", "bits": 5},
        {"quant_method": "fp8", "fmt": "e3m4"},
    ):
        with pytest.raises(UnsupportedError):
            CODECS[settings["quant_method"]](settings)


FP8_SCALES = {
    "block": ("weight_scale_inv", (2, 3)),
    "tensor": ("weight_scale", ()),
    "row": ("weight_scale", (20, 1)),
}


@pytest.mark.parametrize("kind", FP8_SCALES)
def test_fp8_is_read_as_its_libraries_dequantize_it(kind):
    torch = pytest.importorskip("torch")
    part, shape = FP8_SCALES[kind]
    rng = np.random.default_rng(3)
    codes = rng.normal(size=(20, 40)).astype(ml_dtypes.float8_e4m3fn)
    scales = rng.uniform(0.01, 0.3, shape).astype(np.float32)
    found = read(
        {"weight": codes, part: np.asarray(scales)}, quant_method="fp8", weight_block_size=[16, 16]
    )
    spread = scales
    if kind == "block":
        spread = np.repeat(np.repeat(scales, 16, 0), 16, 1)[:20, :40]
    wide = torch.tensor(codes.view(np.uint8)).view(torch.float8_e4m3fn).to(torch.float32)
    expected = (wide * torch.tensor(spread)).to(torch.bfloat16).float().numpy()
    assert np.array_equal(found.dequantize(), expected)


def test_fp8_with_powers_of_two_is_exact():
    codes = np.arange(127, dtype=np.uint8)[:96].reshape(2, 48).view(ml_dtypes.float8_e4m3fn)
    scale = np.array(0.125, np.float32)
    tensor = read({"weight": codes, "weight_scale": scale}, quant_method="fp8")
    assert np.array_equal(tensor.dequantize(), codes.astype(np.float32) / 8)


NF4 = np.array([
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
], np.float32)  # fmt: skip


def bnb4(rows: int, width: int, block: int, nested: bool, kind: str = "nf4"):
    rng = np.random.default_rng(width)
    codes = rng.integers(0, 16, rows * width)
    table = NF4 if kind == "nf4" else np.sort(rng.uniform(-1, 1, 16)).astype(np.float32)
    blocks = -(-rows * width // block)
    state: dict[str, Any] = {"quant_type": kind, "blocksize": block, "dtype": "float16", "shape": [rows, width]}  # fmt: skip
    arrays = {"weight": (codes[::2] << 4 | codes[1::2]).astype(np.uint8).reshape(-1, 1), "weight.quant_map": table}  # fmt: skip
    if nested:
        absmax = rng.integers(0, 256, blocks).astype(np.uint8)
        arrays["weight.nested_quant_map"] = np.linspace(-1, 1, 256).astype(np.float32)
        arrays["weight.nested_absmax"] = rng.uniform(0.1, 0.2, -(-blocks // 256)).astype(np.float32)
        state |= {"nested_blocksize": 256, "nested_offset": 0.25, "nested_dtype": "float32"}
        restored = arrays["weight.nested_quant_map"][absmax] * np.repeat(
            arrays["weight.nested_absmax"], 256
        )[:blocks] + np.float32(0.25)
    else:
        absmax = restored = rng.uniform(0.1, 1, blocks).astype(np.float32)
    arrays["weight.absmax"] = absmax
    arrays[f"weight.quant_state.bitsandbytes__{kind}"] = np.frombuffer(json.dumps(state).encode(), np.uint8)  # fmt: skip
    values = table[codes] * np.repeat(restored, block)[: rows * width]
    return arrays, values.reshape(rows, width)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize(("kind", "width"), [("nf4", 128), ("fp4", 128), ("nf4", 48)])
def test_bitsandbytes_4_bits_are_read(kind, width, nested):
    arrays, values = bnb4(10, width, 64, nested, kind)
    tensor = read(arrays, quant_method="bitsandbytes", load_in_4bit=True)
    assert tensor.shape == (10, width)
    if (kind, width) == ("nf4", 128):
        assert isinstance(tensor, CodebookTensor) and tensor.format == Codebook("nf4", 64)
        reach = np.abs(values).reshape(10, -1, 64).max(axis=-1).repeat(64, axis=1)
        assert (np.abs(tensor.dequantize() - values) <= reach * 0.0045).all()
    else:
        assert isinstance(tensor, DenseTensor)
        assert np.array_equal(tensor.data, values.astype(np.float16))


def test_bitsandbytes_int8_is_read_as_rows():
    rng = np.random.default_rng(0)
    codes = rng.integers(-127, 128, (6, 32)).astype(np.int8)
    largest = rng.uniform(0.1, 2, 6).astype(np.float32)
    arrays = {"weight": codes, "SCB": largest, "weight_format": np.array(0, np.uint8)}
    tensor = read(arrays, quant_method="bitsandbytes", load_in_8bit=True)
    assert isinstance(tensor, AffineTensor)
    np.testing.assert_allclose(tensor.dequantize(), codes * largest[:, None] / 127, rtol=3e-7)
    arrays["weight_format"] = np.array(2, np.uint8)
    with pytest.raises(UnsupportedError, match="tiled"):
        read(arrays, quant_method="bitsandbytes")


def test_a_folder_is_read_through_the_codec_that_its_config_names(tmp_path):
    arrays, values = awq()
    stored = {f"{X}.{part}": array for part, array in arrays.items()}
    norm = np.ones(4, np.float32)
    write_safetensors(tmp_path / "model.safetensors", stored | {"model.norm.weight": norm})
    config = {"model_type": "llama", "quantization_config": {"quant_method": "awq", "bits": 4}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    checkpoint = FolderCheckpoint(tmp_path)
    assert checkpoint.names() == [f"{X}.weight", "model.norm.weight"]
    assert np.array_equal(checkpoint.tensor(f"{X}.weight").dequantize(), values)
    assert np.array_equal(checkpoint.tensor("model.norm.weight").dequantize(), norm)


SAMPLES = [
    (gptq(4, 32)[0], {"quant_method": "gptq", "bits": 4}),
    (gptq(3, 128)[0], {"quant_method": "gptq", "bits": 3}),
    (awq()[0], {"quant_method": "awq"}),
    (
        {"weight": np.ones((4, 32), ml_dtypes.float8_e4m3fn), "weight_scale_inv": np.ones((1, 2), np.float32)},
        {"quant_method": "fp8", "weight_block_size": [4, 16]},
    ),
    (bnb4(4, 64, 64, True)[0], {"quant_method": "bitsandbytes"}),
    ({"weight": np.ones((4, 32), np.int8), "SCB": np.ones(4, np.float32)}, {"quant_method": "bitsandbytes"}),
]  # fmt: skip
DTYPES = [np.int32, np.float16, np.float32, np.uint8, np.int8, np.int64, ml_dtypes.float8_e4m3fn, ml_dtypes.bfloat16]  # fmt: skip


def damaged(array: np.ndarray, draw: random.Random) -> np.ndarray:
    kind = draw.randrange(5)
    if kind == 0 and array.ndim:
        return array[: draw.randrange(len(array) + 1)]
    if kind == 1:
        return array.reshape(-1)
    if kind == 2:
        raw = np.frombuffer(draw.randbytes(array.nbytes), np.uint8)
        return raw.view(array.dtype).reshape(array.shape)
    if kind == 3:
        with np.errstate(all="ignore"):
            return array.astype(draw.choice(DTYPES))
    return np.zeros((0, *array.shape[1:]), array.dtype)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample[1]["quant_method"])
def test_damaged_parts_are_read_or_refused_in_words(sample):
    arrays, settings = sample
    refused = 0
    for seed in range(150):
        draw = random.Random(seed)
        changed = dict(arrays)
        for part in draw.sample(sorted(changed), draw.randint(1, 2)):
            if draw.randrange(6) == 0:
                del changed[part]
            else:
                changed[part] = damaged(changed[part], draw)
        named = {f"{X}.{part}": array for part, array in changed.items()}
        reader = ForeignReader(Memory(named), CODECS[settings["quant_method"]](settings))
        try:
            for name in reader.names():
                reader.tensor(name).shape  # noqa: B018
        except SlipstreamError as error:
            assert X in str(error)
            refused += 1
    assert refused > 20


def test_strange_settings_are_read_or_refused_in_words():
    values = [None, True, 0, 1, 4, -1, 2**70, 0.5, "", "gptq", "gemm", "e4m3", [], [1, 2], {}, {"a": 1}]  # fmt: skip
    keys = ["bits", "checkpoint_format", "dynamic", "version", "fmt", "weight_block_size", "desc_act"]  # fmt: skip
    refused = 0
    for seed in range(1000):
        draw = random.Random(seed)
        settings = {key: draw.choice(values) for key in draw.sample(keys, 3)}
        for method in CODECS:
            try:
                assert CODECS[method](settings).marks
            except SlipstreamError as error:
                assert str(error)
                refused += 1
    assert 500 < refused < 5000

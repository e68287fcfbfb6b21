"""What is written is read back to the bit, others read the same values, and damage is refused."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.checkpoint.compressed_tensors import CompressedTensors, unpack_words
from slipstream.checkpoint.compressed_tensors_scheme import Scheme, read_schemes, write_group
from slipstream.checkpoint.compressed_tensors_write import encode, pack_words, plan_layout
from slipstream.checkpoint.safetensors_write import write_safetensors
from slipstream.errors import FileFormatError, UnsupportedError
from slipstream.formats.affine import quantize_affine
from slipstream.formats.nibbles import unpack_nibbles
from slipstream.formats.tensor import Affine, AffineTensor, DenseTensor, Tensor
from slipstream.graph.ops import Activations

NAME = "model.layers.0.mlp.up_proj.weight"
FORMATS = [
    Affine(bits, group, zero)
    for bits in (2, 3, 4, 5, 6, 8)
    for group in (16, 32, None)
    for zero in ("symmetric", "zero_point")
]


class Memory:
    """Stored arrays without a file."""

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        self.arrays = dict(arrays)

    def names(self) -> list[str]:
        return list(self.arrays)

    def array(self, name: str) -> np.ndarray:
        return self.arrays[name]


def matrix(rows: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float32)


def write(
    tensors: Mapping[str, Tensor],
    activations: Mapping[str, Activations] | None = None,
    tied: bool = False,
) -> tuple[dict[str, Any], Memory]:
    plan = plan_layout(tensors, activations or {}, tied=tied)
    assert plan is not None
    arrays: dict[str, np.ndarray] = {}
    for name, tensor in tensors.items():
        arrays |= encode(name, tensor, plan)
    return {"quantization_config": json.loads(json.dumps(plan.config))}, Memory(arrays)


def assert_same(found: Tensor, expected: Tensor) -> None:
    assert type(found) is type(expected)
    if isinstance(expected, DenseTensor):
        assert np.array_equal(found.data, expected.data)
        return
    assert found.format == expected.format
    assert found.codes.dtype == expected.codes.dtype and np.array_equal(found.codes, expected.codes)
    assert found.scales.dtype == expected.scales.dtype and np.array_equal(
        found.scales, expected.scales
    )
    assert (found.offsets is None) == (expected.offsets is None)
    if expected.offsets is not None:
        assert found.offsets.dtype == expected.offsets.dtype
        assert np.array_equal(found.offsets, expected.offsets)


@pytest.mark.parametrize("scale", ["float16", "float32"])
@pytest.mark.parametrize("activations", [Activations(), Activations(8), Activations(8, 32)])
@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_a_tensor_survives_the_round_trip(
    form: Affine, activations: Activations, scale: Any
) -> None:
    tensor = quantize_affine(
        matrix(13, 64), form, scale
    )  # 13 rows: packed zero points need padding
    config, arrays = write({NAME: tensor}, {NAME: activations})
    reader = CompressedTensors(config, arrays)
    assert reader.names() == [NAME]
    assert reader.activations() == {NAME: activations}
    assert_same(reader.tensor(NAME), tensor)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 20),
    count=st.integers(1, 40),
    bits=st.sampled_from([2, 3, 4, 5, 6, 8]),
    seed=st.integers(0, 1000),
)
def test_packing_is_undone_by_unpacking(rows: int, count: int, bits: int, seed: int) -> None:
    values = np.random.default_rng(seed).integers(0, 1 << bits, (rows, count)).astype(np.uint8)
    words = pack_words(values, bits)
    assert words.dtype == np.int32 and words.shape == (rows, -(-count * bits // 32))
    assert np.array_equal(unpack_words(words, bits, count), values)


def test_dense_tensors_are_untouched_and_mixed_formats_keep_their_own() -> None:
    tensors: dict[str, Tensor] = {
        "model.embed_tokens.weight": quantize_affine(matrix(24, 32), Affine(8, 32)),
        "model.layers.0.mlp.up_proj.weight": quantize_affine(matrix(16, 32, 1), Affine(4, 16)),
        "model.layers.0.mlp.gate_proj.weight": quantize_affine(matrix(16, 32, 2), Affine(4, 16)),
        "model.layers.0.mlp.down_proj.weight": quantize_affine(matrix(32, 16, 3), Affine(8, None)),
        "model.layers.0.self_attn.q_proj.weight": DenseTensor(matrix(32, 32, 4)),
        "model.norm.weight": DenseTensor(np.ones(32, ml_dtypes.bfloat16)),
    }
    int8 = Activations(8, 32)
    config, arrays = write(tensors, {"model.layers.0.mlp.down_proj.weight": int8}, tied=True)
    reader = CompressedTensors(config, arrays)
    assert set(reader.names()) == {*tensors}
    for name, tensor in tensors.items():
        assert_same(reader.tensor(name), tensor)
    assert reader.activations()["model.layers.0.mlp.down_proj.weight"] == int8
    settings_ = config["quantization_config"]
    assert settings_["format"] == "mixed-precision"
    assert "model.layers.0.self_attn.q_proj" in settings_["ignore"]
    assert "lm_head.weight_scale" in arrays.names()  # so that transformers ties it too


@pytest.mark.parametrize("tied", [False, True])
def test_an_embedding_has_no_activations_but_its_tied_head_has(tied: bool) -> None:
    name, int8 = "model.embed_tokens.weight", Activations(8, 32)
    config, arrays = write(
        {name: quantize_affine(matrix(24, 32), Affine(8, 32))}, {name: int8}, tied
    )
    assert CompressedTensors(config, arrays).activations() == ({name: int8} if tied else {})
    for group_ in config["quantization_config"]["config_groups"].values():
        assert (group_["input_activations"] is None) == ("model.embed_tokens" in group_["targets"])


def test_the_more_exact_target_wins() -> None:
    exact, pattern, kind = (Scheme(Affine(8, group), Activations(), None) for group in (16, 32, 64))
    config = {
        "format": "int-quantized",
        "config_groups": {
            "a": write_group(kind, ["Linear"]),
            "b": write_group(pattern, [r"re:.*mlp\..*"]),
            "c": write_group(exact, ["model.layers.0.mlp.up_proj"]),
        },
    }
    schemes = read_schemes(config)
    assert schemes.of("model.layers.0.mlp.up_proj").format.group == 16
    assert schemes.of("model.layers.1.mlp.up_proj").format.group == 32
    assert schemes.of("lm_head").format.group == 64
    with pytest.raises(FileFormatError, match="says nothing"):
        schemes.of("model.embed_tokens")


def test_a_float_minimum_is_refused_with_the_cure() -> None:
    tensor = quantize_affine(matrix(16, 32), Affine(4, 32, "minimum"))
    with pytest.raises(UnsupportedError, match="round it again"):
        plan_layout({NAME: tensor}, {}, tied=False)


def test_all_dense_needs_no_config() -> None:
    assert plan_layout({NAME: DenseTensor(matrix(4, 4))}, {}, tied=False) is None


def group(**changes: Any) -> dict[str, Any]:
    weights = {
        "num_bits": 4,
        "type": "int",
        "symmetric": True,
        "strategy": "group",
        "group_size": 32,
    }
    whole = {"targets": ["Linear"], "weights": {**weights, **changes.pop("weights", {})}, **changes}
    return {"format": "pack-quantized", "config_groups": {"group_0": whole}}


@pytest.mark.parametrize(
    "form", [Affine(4, 16), Affine(4, 16, "zero_point"), Affine(8, 16)], ids=str
)
def test_reordered_inputs_are_dense_with_each_inputs_own_scale(form: Affine) -> None:
    tensor = quantize_affine(matrix(32, 64), form)
    config, arrays = write({NAME: tensor})
    order = np.random.default_rng(2).permutation(np.arange(64) // 16).astype(np.int32)
    arrays.arrays[NAME + "_g_idx"] = order
    found = CompressedTensors(config, arrays).tensor(NAME)
    codes = unpack_nibbles(tensor.codes).astype(int) if form.nibbles else tensor.codes
    expected = np.empty((32, 64), np.float32)
    for row, column in np.ndindex(32, 64):
        group = order[column]
        zero = form.code_of_zero if tensor.offsets is None else int(tensor.offsets[row, group])
        expected[row, column] = (int(codes[row, column]) - zero) * np.float32(
            tensor.scales[row, group]
        )
    assert isinstance(found, DenseTensor) and found.data.dtype == np.float16
    assert np.array_equal(found.data, expected.astype(np.float16))
    arrays.arrays[NAME + "_g_idx"] = np.full(64, -1, np.int32)
    assert_same(CompressedTensors(config, arrays).tensor(NAME), tensor)
    arrays.arrays[NAME + "_g_idx"] = order + 1
    with pytest.raises(FileFormatError, match="g_idx"):
        CompressedTensors(config, arrays).tensor(NAME)


@pytest.mark.parametrize(
    ("strategy", "shape"), [("tensor", (1,)), ("channel", (20, 1)), ("block", (2, 3))]
)
def test_fp8_weights_are_read_as_bfloat16(strategy: str, shape: tuple[int, ...]) -> None:
    codes = matrix(20, 40).astype(ml_dtypes.float8_e4m3fn)
    scales = np.random.default_rng(1).uniform(0.1, 1, shape).astype(ml_dtypes.bfloat16)
    settings = group(
        weights={"type": "float", "num_bits": 8, "strategy": strategy, "block_structure": [16, 16]},
        input_activations={"num_bits": 8, "type": "float", "dynamic": True, "strategy": "token"},
    )
    arrays = Memory({NAME: codes, f"{NAME}_scale": scales})
    config = {"quantization_config": settings | {"format": "float-quantized"}}
    reader = CompressedTensors(config, arrays)
    assert reader.names() == [NAME]
    assert reader.activations() == {NAME: Activations()}
    spread = scales.astype(np.float32)
    if strategy == "block":
        spread = np.repeat(np.repeat(spread, 16, 0), 16, 1)[:20, :40]
    expected = (codes.astype(np.float32) * spread).astype(ml_dtypes.bfloat16)
    tensor = reader.tensor(NAME)
    assert isinstance(tensor, DenseTensor) and np.array_equal(tensor.data, expected)


@pytest.mark.parametrize(
    "config",
    [
        group(weights={"type": "float", "num_bits": 4, "group_size": 16}),
        group(weights={"num_bits": 7}),
        group(weights={"strategy": "block"}),
        group(weights={"group_size": 8}),
        group(input_activations={"num_bits": 8, "dynamic": False, "strategy": "token"}),
        group(
            input_activations={"num_bits": 4, "type": "float", "dynamic": True, "strategy": "token"}
        ),
        group(output_activations={"num_bits": 8}),
        group(targets=["re:(a+)+$"]),
        group(targets=["re:" + "a" * 1000]),
        {"format": "nvfp4-pack-quantized", "config_groups": {}},
        {"format": "pack-quantized", "config_groups": {"W4A16": ["Linear"]}},
        {},
    ],
)
def test_what_is_not_served_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedError):
        read_schemes(config)


@pytest.mark.parametrize(
    "config",
    [
        {"format": "pack-quantized"},
        {"format": "pack-quantized", "config_groups": []},
        group(targets="Linear"),
        group(targets=["re:("]),
        group(weights={"group_size": "32"}),
        group(weights={"group_size": -4}),
        group(input_activations=[]),
    ],
)
def test_a_damaged_config_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(FileFormatError):
        read_schemes(config)


def spoil(name: str, array: np.ndarray | None) -> tuple[dict[str, Any], Memory]:
    config, arrays = write({NAME: quantize_affine(matrix(16, 64), Affine(4, 32, "zero_point"))})
    module = NAME.removesuffix("weight")
    if array is None:
        del arrays.arrays[module + name]
    else:
        arrays.arrays[module + name] = array
    return config, arrays


@pytest.mark.parametrize(
    ("part", "array"),
    [
        ("weight_packed", np.zeros((16, 7), np.int32)),
        ("weight_packed", np.zeros((16, 8), np.float32)),
        ("weight_packed", np.zeros(16, np.int32)),
        ("weight_shape", np.array([16, 64, 1])),
        ("weight_shape", np.array([-16, 64])),
        ("weight_shape", np.array([16, 1 << 60])),
        ("weight_shape", None),
        ("weight_scale", np.zeros((16, 3), np.float32)),
        ("weight_scale", np.full((16, 2), np.nan, np.float32)),
        ("weight_scale", np.zeros((16, 2), np.int8)),
        ("weight_zero_point", np.zeros((3, 2), np.int32)),
        ("weight_zero_point", np.zeros((16, 2), np.float32)),
    ],
)
def test_parts_that_disagree_are_refused(part: str, array: np.ndarray | None) -> None:
    config, arrays = spoil(part, array)
    with pytest.raises(FileFormatError):
        CompressedTensors(config, arrays).tensor(NAME)


def test_bfloat16_scales_and_whole_tensor_scales_are_read() -> None:
    config = {
        "quantization_config": group(
            weights={"num_bits": 8, "strategy": "tensor", "group_size": None}
        )
    }
    config["quantization_config"]["format"] = "int-quantized"
    codes = np.arange(-64, 64, dtype=np.int8).reshape(4, 32)
    module = NAME.removesuffix("weight")
    arrays = Memory(
        {module + "weight": codes, module + "weight_scale": np.array(0.5, ml_dtypes.bfloat16)}
    )
    tensor = CompressedTensors(config, arrays).tensor(NAME)
    assert np.array_equal(tensor.dequantize(), codes * np.float32(0.5))


def test_four_bit_codes_stored_one_a_byte_are_packed() -> None:
    tensor = quantize_affine(matrix(16, 32), Affine(4, 32))
    config, _ = write({NAME: tensor})
    config["quantization_config"]["format"] = "int-quantized"
    module = NAME.removesuffix("weight")
    codes = (unpack_nibbles(tensor.codes) ^ np.uint8(0x08)).view(np.int8)
    codes = np.where(codes > 7, codes - 16, codes).astype(np.int8)
    arrays = Memory({module + "weight": codes, module + "weight_scale": tensor.scales})
    assert_same(CompressedTensors(config, arrays).tensor(NAME), tensor)
    arrays.arrays[module + "weight"] = np.full((16, 32), 9, np.int8)
    with pytest.raises(FileFormatError, match="4 bits"):
        CompressedTensors(config, arrays).tensor(NAME)


@pytest.mark.parametrize("tied", [False, True])
def test_a_small_embedding_is_packed_once_and_keeps_its_heads_activations(tied: bool) -> None:
    name, int8 = "model.embed_tokens.weight", Activations(8, 32)
    tensor = quantize_affine(matrix(32, 64), Affine(5, 32))
    config, arrays = write({name: tensor}, {name: int8}, tied)
    assert arrays.array("model.embed_tokens.weight_packed").nbytes == 32 * 64 * 5 // 8
    assert not any("lm_head" in stored for stored in arrays.names())
    reader = CompressedTensors(config, arrays)
    assert_same(reader.tensor(name), tensor)
    assert reader.activations() == ({name: int8} if tied else {})


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_the_compressed_tensors_package_reads_the_same_values(form: Affine) -> None:
    torch = pytest.importorskip("torch")
    compressors = pytest.importorskip("compressed_tensors.compressors")
    quantization = pytest.importorskip("compressed_tensors.quantization")
    tensor = quantize_affine(matrix(24, 64), form, "float32")
    config, arrays = write({NAME: tensor})
    groups = config["quantization_config"]["config_groups"]
    scheme = quantization.QuantizationScheme(**groups["group_0"])
    parts = {
        name.rpartition(".")[2]: torch.from_numpy(np.array(array))
        for name, array in arrays.arrays.items()
    }
    layout = groups["group_0"]["format"]
    registry = compressors.BaseCompressor.get_value_from_registry(layout)
    found = registry.decompress(parts, scheme)["weight"].numpy()
    assert np.array_equal(found, tensor.dequantize())


@pytest.mark.slow
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("activations", [Activations(), Activations(8), Activations(8, 32)])
@pytest.mark.parametrize(
    ("form", "embedding"),
    [
        (Affine(4, 32), Affine(8, 32)),
        (Affine(8, None), None),
        (Affine(8, 32, "zero_point"), Affine(8, None)),
    ],
)
def test_transformers_loads_it_and_agrees(
    tied: bool, activations: Activations, form: Affine, embedding: Affine | None, tmp_path: Path
) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(1)
    shape = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "vocab_size": 104}
    config = transformers.LlamaConfig(
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=tied, **shape
    )
    model = transformers.LlamaForCausalLM(config).float().eval()
    tensors: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        chosen = embedding if "embed" in name else form
        if not (tied and name == "lm_head.weight"):
            dense = value.ndim < 2 or chosen is None
            tensors[name] = (
                DenseTensor(value.numpy())
                if dense
                else quantize_affine(value.numpy(), chosen, "float32")
            )
    quantized = [name for name, tensor in tensors.items() if isinstance(tensor, AffineTensor)]
    settings_, arrays = write(tensors, dict.fromkeys(quantized, activations), tied)
    write_safetensors(tmp_path / "model.safetensors", arrays.arrays, {"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict() | settings_))
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    state = {name: torch.tensor(tensor.dequantize()) for name, tensor in tensors.items()}
    if tied:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model.load_state_dict(state)
    ids = torch.randint(0, 104, (1, 12))
    with torch.no_grad():
        difference = (loaded(ids).logits - model(ids).logits).abs().max().item()
        size = model(ids).logits.abs().max().item()
    assert difference <= (1e-5 if activations.bits == 32 else 0.03) * size

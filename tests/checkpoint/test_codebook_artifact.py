"""Codebook matrices on disk: what is written is read back to the bit, damage is refused."""

import json

import numpy as np
import pytest

from slipstream.checkpoint.compressed_tensors import CompressedTensors
from slipstream.checkpoint.compressed_tensors_write import encode, plan_layout
from slipstream.errors import FileFormatError, UnsupportedError
from slipstream.formats.codebook import Codebook, CodebookTensor
from slipstream.formats.codebook_round import quantize_codebook
from slipstream.formats.tensor import arrays_of
from slipstream.graph.ops import Activations

NAME = "model.layers.0.mlp.up_proj.weight"
BOOKS = [Codebook("nf4", 64), Codebook("nf4", None), Codebook("iq4_nl", 32), Codebook("mxfp4", 32)]


class Memory:
    """Arrays by name, as a file would give them."""

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        self.arrays = arrays

    def names(self) -> list[str]:
        return list(self.arrays)

    def array(self, name: str) -> np.ndarray:
        return self.arrays[name]


def rounded(form: Codebook) -> CodebookTensor:
    weight = np.random.default_rng(0).normal(size=(6, 128)).astype(np.float32)
    return quantize_codebook(weight, form)


def written(tensor: CodebookTensor) -> tuple[dict, dict[str, np.ndarray]]:
    plan = plan_layout({NAME: tensor}, {NAME: Activations(8, 32)}, tied=False)
    assert plan is not None
    config = json.loads(json.dumps(plan.config))
    return {"quantization_config": config}, encode(NAME, tensor, plan)


@pytest.mark.parametrize("form", BOOKS, ids=str)
def test_a_codebook_survives_the_round_trip(form: Codebook) -> None:
    tensor = rounded(form)
    config, arrays = written(tensor)
    reader = CompressedTensors(config, Memory(arrays))
    assert reader.names() == [NAME] and reader.activations() == {NAME: Activations(8, 32)}
    found = reader.tensor(NAME)
    assert isinstance(found, CodebookTensor) and found.format == form
    assert all(np.array_equal(arrays_of(found)[k], v) for k, v in arrays_of(tensor).items())


def test_mxfp4_is_the_layout_that_others_read() -> None:
    config, arrays = written(rounded(Codebook("mxfp4", 32)))
    said = config["quantization_config"]
    weights = said["config_groups"]["group_0"]["weights"]
    assert said["format"] == "mxfp4-pack-quantized"
    assert (weights["type"], weights["num_bits"], weights["group_size"]) == ("float", 4, 32)
    assert {name.rpartition(".")[2] for name in arrays} == {"weight_packed", "weight_scale"}


def test_nested_scales_keep_their_values() -> None:
    draw = np.random.default_rng(1)
    tensor = CodebookTensor(
        Codebook("iq4_nl", 32),
        draw.integers(0, 256, (4, 128)).astype(np.uint8),
        draw.integers(-32, 32, (4, 8)).astype(np.int8),
        draw.normal(size=(4, 1)).astype(np.float16),
    )
    config, arrays = written(tensor)
    found = CompressedTensors(config, Memory(arrays)).tensor(NAME)
    assert np.array_equal(found.dequantize(), tensor.dequantize())


@pytest.mark.parametrize(
    ("part", "array"),
    [
        ("weight_packed", np.zeros((6, 20), np.uint8)),
        ("weight_packed", np.zeros((6, 64), np.int8)),
        ("weight_packed", np.zeros((6, 0), np.uint8)),
        ("weight_scale", np.full((6, 4), 255, np.uint8)),
        ("weight_scale", np.zeros((6, 3), np.uint8)),
        ("weight_scale", np.zeros((6, 4), np.float16)),
    ],
)
def test_damage_is_refused(part: str, array: np.ndarray) -> None:
    config, arrays = written(rounded(Codebook("mxfp4", 32)))
    arrays[f"{NAME.removesuffix('.weight')}.{part}"] = array
    with pytest.raises(FileFormatError, match="damaged"):
        CompressedTensors(config, Memory(arrays)).tensor(NAME)


def test_other_floats_of_four_bits_are_refused() -> None:
    config, arrays = written(rounded(Codebook("mxfp4", 32)))
    weights = config["quantization_config"]["config_groups"]["group_0"]["weights"]
    weights["group_size"] = 16  # NVFP4
    with pytest.raises(UnsupportedError, match="float weights of 4 bits"):
        CompressedTensors(config, Memory(arrays))

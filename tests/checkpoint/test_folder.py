"""Hugging Face folders as checkpoints, and which kind of checkpoint a path is opened as."""

import json

import ml_dtypes
import numpy as np
import pytest

from slipstream.checkpoint.folder import FolderCheckpoint
from slipstream.checkpoint.gguf_checkpoint import GGUFCheckpoint
from slipstream.checkpoint.open import open_checkpoint
from slipstream.checkpoint.safetensors_write import write_safetensors
from slipstream.errors import FileFormatError, SafetensorsError, SourceError, UnsupportedError
from slipstream.formats.tensor import AffineTensor, DenseTensor

CONFIG = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "eos_token_id": 2}


@pytest.fixture
def model(tmp_path):
    """A function that writes a folder and returns it; names with a dot are files, None removes."""

    def make(tensors=None, **files):
        arrays = tensors or {
            "w": np.arange(6, dtype=ml_dtypes.bfloat16).reshape(2, 3),
            "n": np.ones(3, np.float32),
        }
        write_safetensors(tmp_path / "model.safetensors", arrays)
        content = {"config_json": CONFIG, "tokenizer_json": {}} | files
        for name, value in content.items():
            stem, _, suffix = name.rpartition("_")
            if value is not None:
                text = value if isinstance(value, str) else json.dumps(value)
                (tmp_path / f"{stem}.{suffix}").write_text(text)
        return tmp_path

    return make


def test_a_folder_gives_its_tensors_as_they_are_stored(model):
    checkpoint = FolderCheckpoint(model())
    assert checkpoint.names() == ["n", "w"] and checkpoint.activations == {}
    tensor = checkpoint.tensor("w")
    assert isinstance(tensor, DenseTensor) and tensor.data.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(tensor.dequantize(), np.arange(6).reshape(2, 3))
    with pytest.raises(KeyError):
        checkpoint.tensor("nothing")


def test_end_tokens_of_both_configs_are_merged(model):
    assert FolderCheckpoint(model()).config["eos_token_id"] == [2]
    checkpoint = FolderCheckpoint(model(generation_config_json={"eos_token_id": [2, 7]}))
    assert checkpoint.config["eos_token_id"] == [2, 7]
    checkpoint = FolderCheckpoint(model(config_json={"model_type": "x"}))
    assert checkpoint.config["architectures"] == []


TEMPLATES = [
    ({}, None),
    ({"tokenizer_config_json": {"chat_template": "one"}}, "one"),
    ({"tokenizer_config_json": {"chat_template": "one"}, "chat_template_jinja": "file"}, "file"),
    ({"tokenizer_config_json": {}, "chat_template_json": {"chat_template": "json"}}, "json"),
    ({"tokenizer_config_json": {"chat_template": [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]}}, "d"),
    ({"tokenizer_config_json": {"chat_template": [{"name": "rag", "template": "r"}]}}, "r"),
    ({"tokenizer_config_json": {"chat_template": []}}, None),
]  # fmt: skip


@pytest.mark.parametrize(("files", "expected"), TEMPLATES)
def test_the_chat_template_is_found_wherever_it_is(model, files, expected):
    data = FolderCheckpoint(model(**files)).tokenizer
    assert data.chat_template == expected
    assert data.json_path is not None and data.json_path.name == "tokenizer.json"


def test_a_folder_without_a_tokenizer_opens_without_one(model):
    assert FolderCheckpoint(model(tokenizer_json=None)).tokenizer.json_path is None


def test_equal_content_has_equal_identity(model):
    first = FolderCheckpoint(model()).identity()
    assert FolderCheckpoint(model()).identity() == first and len(first) == 64
    assert FolderCheckpoint(model(tensors={"w": np.zeros(3)})).identity() != first
    assert FolderCheckpoint(model(config_json=CONFIG | {"x": 1})).identity() != first


def test_compressed_tensors_are_affine(model):
    group = {
        "targets": ["Linear"],
        "weights": {
            "num_bits": 4,
            "type": "int",
            "symmetric": True,
            "strategy": "group",
            "group_size": 32,
        },
    }
    settings = {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "config_groups": {"group_0": group},
    }
    tensors = {
        "l.weight_packed": np.full((4, 8), 0x76543210, np.int32),
        "l.weight_scale": np.ones((4, 2), np.float16),
        "l.weight_shape": np.array([4, 64]),
        "n.weight": np.ones(4, np.float32),
    }
    checkpoint = FolderCheckpoint(
        model(tensors, config_json=CONFIG | {"quantization_config": settings})
    )
    assert checkpoint.names() == ["l.weight", "n.weight"]
    tensor = checkpoint.tensor("l.weight")
    assert isinstance(tensor, AffineTensor)
    assert tensor.dequantize()[0, :8].tolist() == [-8, -7, -6, -5, -4, -3, -2, -1]


def test_zero_points_that_are_promised_and_missing_are_an_error(model):
    group = {
        "targets": ["Linear"],
        "weights": {"num_bits": 8, "type": "int", "symmetric": False, "strategy": "channel"},
    }
    settings = {
        "quant_method": "compressed-tensors",
        "format": "int-quantized",
        "config_groups": {"group_0": group},
    }
    tensors = {"l.weight": np.ones((4, 32), np.int8), "l.weight_scale": np.ones((4, 1), np.float32)}
    checkpoint = FolderCheckpoint(
        model(tensors, config_json=CONFIG | {"quantization_config": settings})
    )
    with pytest.raises(FileFormatError, match="weight_zero_point is missing"):
        checkpoint.tensor("l.weight")


BAD_FILES = [
    ({"config_json": "{"}, FileFormatError, "not valid JSON"),
    ({"config_json": "[]"}, FileFormatError, "an object is expected"),
    ({"config_json": "[" * 100_000}, FileFormatError, "nested too deeply|not valid JSON"),
    ({"config_json": {}}, FileFormatError, "model_type"),
    ({"config_json": {"model_type": 3}}, FileFormatError, "model_type"),
    ({"config_json": CONFIG | {"architectures": "x"}}, FileFormatError, "architectures"),
    ({"config_json": CONFIG | {"eos_token_id": "x"}}, FileFormatError, "eos_token_id in config"),
    ({"config_json": CONFIG | {"eos_token_id": [True]}}, FileFormatError, "eos_token_id in config"),
    ({"generation_config_json": {"eos_token_id": {}}}, FileFormatError, "eos_token_id in generation"),
    ({"config_json": CONFIG | {"quantization_config": 3}}, FileFormatError, "quantization_config"),
    ({"config_json": CONFIG | {"quantization_config": {"quant_method": "quip"}}}, UnsupportedError, "'quip'"),
    ({"tokenizer_config_json": {"chat_template": 3}}, FileFormatError, "chat template"),
    ({"tokenizer_config_json": {"chat_template": [3]}}, FileFormatError, "chat template"),
    ({"tokenizer_config_json": {"chat_template": [{"name": "default", "template": 3}]}}, FileFormatError, "chat template"),
]  # fmt: skip


@pytest.mark.parametrize(("files", "error", "words"), BAD_FILES)
def test_wrong_files_are_refused_in_words(model, files, error, words):
    with pytest.raises(error, match=words):
        FolderCheckpoint(model(**files))


def test_bytes_that_are_not_text_are_refused(model):
    folder = model()
    (folder / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(FileFormatError, match="not UTF-8"):
        FolderCheckpoint(folder)


def test_a_config_without_end_is_refused(model):
    folder = model()
    with open(folder / "config.json", "wb") as file:
        file.truncate(1 << 32)  # sparse
    with pytest.raises(FileFormatError, match="larger than"):
        FolderCheckpoint(folder)


def test_weights_that_are_missing_or_pickled_are_refused(model):
    folder = model()
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileFormatError, match=r"no model\.safetensors"):
        FolderCheckpoint(folder)
    (folder / "pytorch_model.bin").touch()
    with pytest.raises(UnsupportedError, match="pickles"):
        FolderCheckpoint(folder)


def test_a_path_is_opened_as_what_it_holds(model, gguf_bytes, tiny_llama, tmp_path):
    folder = model()
    for path in (folder, str(folder), folder / "model.safetensors", folder / "config.json"):
        assert isinstance(open_checkpoint(path), FolderCheckpoint)
    (folder / "m.gguf").write_bytes(gguf_bytes(*tiny_llama))
    assert isinstance(open_checkpoint(folder / "m.gguf"), GGUFCheckpoint)
    (folder / "m.gguf").rename(folder / "no-suffix")
    assert isinstance(open_checkpoint(folder / "no-suffix"), GGUFCheckpoint)
    (folder / "inner").mkdir()
    (folder / "no-suffix").rename(folder / "inner" / "m.gguf")
    assert isinstance(open_checkpoint(folder / "inner"), GGUFCheckpoint)


def test_paths_that_hold_no_model_say_what_to_do(tmp_path):
    with pytest.raises(SourceError, match="does not exist"):
        open_checkpoint(tmp_path / "nothing")
    with pytest.raises(FileFormatError, match="holds no model"):
        open_checkpoint(tmp_path)
    for name in ("a.gguf", "b.gguf", "c-00002-of-00002.gguf"):
        (tmp_path / name).touch()
    with pytest.raises(SourceError, match=r"2 GGUF models; name one: a\.gguf, b\.gguf"):
        open_checkpoint(tmp_path)
    with pytest.raises(FileFormatError, match="too short"):
        open_checkpoint(tmp_path / "a.gguf")
    (tmp_path / "adapter.safetensors").touch()
    with pytest.raises(FileFormatError, match="weights alone"):
        open_checkpoint(tmp_path / "adapter.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(SafetensorsError, match="too short"):
        open_checkpoint(tmp_path)

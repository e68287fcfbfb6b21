"""PEFT's adapters are read as PEFT means them; what is not served is refused, whatever it holds."""

import json
import math
import random
import struct

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.checkpoint.peft import CONFIG, WEIGHTS, read_adapter
from slipstream.checkpoint.peft_config import parse_config
from slipstream.checkpoint.safetensors_write import write_safetensors
from slipstream.errors import AdapterError, SlipstreamError, SourceError, UnsupportedError

NUMBERS = [0, 1, 255, 256, 65535, 1 << 31, (1 << 32) - 1, 1 << 40, 1 << 63, (1 << 64) - 1]
KINDS = ["set", "number", "insert", "remove", "repeat", "cut"]
PREFIX = "base_model.model."
Q = "model.layers.0.self_attn.q_proj"
BASICS = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 8, "bias": "none"}


def tensors_of(*modules, rank=4, dtype=np.float32, prefix=PREFIX, infix=""):
    rng = np.random.default_rng(0)
    tensors = {}
    for module in modules or (Q,):
        tensors[f"{prefix}{module}.lora_A{infix}.weight"] = rng.normal(size=(rank, 6)).astype(dtype)
        tensors[f"{prefix}{module}.lora_B{infix}.weight"] = rng.normal(size=(10, rank)).astype(
            dtype
        )
    return tensors


def write(folder, config=None, tensors=None):
    folder.mkdir(exist_ok=True)
    (folder / CONFIG).write_text(json.dumps(BASICS | (config or {})))
    write_safetensors(folder / WEIGHTS, tensors_of() if tensors is None else tensors)
    return folder


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize(("prefix", "infix"), [(PREFIX, ""), (PREFIX, ".default"), ("", "")])
def test_an_adapter_is_read_as_it_was_stored(tmp_path, prefix, infix, dtype):
    tensors = tensors_of(Q, "lm_head", dtype=dtype, prefix=prefix, infix=infix)
    adapter = read_adapter(write(tmp_path / "a", {}, tensors))
    assert sorted(adapter.pairs) == ["lm_head", Q]
    pair = adapter.pairs[Q]
    np.testing.assert_array_equal(pair.down, tensors[f"{prefix}{Q}.lora_A{infix}.weight"])
    np.testing.assert_array_equal(pair.up, tensors[f"{prefix}{Q}.lora_B{infix}.weight"])
    assert (pair.scale, pair.rank, pair.shape, pair.down.dtype) == (2.0, 4, (10, 6), dtype)
    assert adapter.size_bytes == sum(array.nbytes for array in tensors.values())


def test_halves_of_two_dtypes_become_float32(tmp_path):
    tensors = tensors_of()
    name = f"{PREFIX}{Q}.lora_B.weight"
    tensors[name] = tensors[name].astype(np.float16)
    pair = read_adapter(write(tmp_path / "a", {}, tensors)).pairs[Q]
    assert pair.down.dtype == pair.up.dtype == np.float32


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        ({}, 2.0),
        ({"use_rslora": True}, 8 / math.sqrt(4)),
        ({"alpha_pattern": {"q_proj": 3}}, 0.75),
        ({"alpha_pattern": {"proj": 3, "layers.0.self_attn.q_proj": 5}}, 1.25),
        ({"alpha_pattern": {Q: 1, "q_proj": 3}}, 0.25),
        ({"r": 9, "rank_pattern": {"self_attn.q_proj": 4}}, 2.0),
        ({"lora_alpha": 0.5}, 0.125),
    ],
)
def test_scales_follow_the_config(tmp_path, config, scale):
    assert read_adapter(write(tmp_path / "a", config)).pairs[Q].scale == pytest.approx(scale)


def test_fields_that_only_training_reads_are_passed_over(tmp_path):
    config = {
        "base_model_name_or_path": "x/y", "lora_dropout": 0.1, "target_modules": ["q_proj"],
        "inference_mode": True, "init_lora_weights": "gaussian", "peft_version": "0.99",
        "fan_in_fan_out": True, "megatron_core": "megatron.core", "modules_to_save": None,
        "layers_to_transform": [0], "something_new": None, "use_dora": False, "loftq_config": {},
        "qalora_group_size": 16, "corda_config": None,
    }  # fmt: skip
    assert len(read_adapter(write(tmp_path / "a", config)).pairs) == 1


REFUSED = [
    ({"peft_type": "IA3"}, "IA3"),
    ({"peft_type": None}, "LoRA"),
    ({"task_type": "SEQ_CLS"}, "SEQ_CLS"),
    ({"use_dora": True}, "DoRA"),
    ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
    ({"bias": "lora_only"}, "biases"),
    ({"lora_bias": True}, "lora_bias"),
    ({"trainable_token_indices": [1]}, "embeddings"),
    ({"layer_replication": [[0, 2]]}, "replicates"),
    ({"alora_invocation_tokens": [5]}, "activated"),
    ({"target_parameters": ["mlp.experts.gate"]}, "target_parameters"),
    ({"init_lora_weights": "pissa"}, "pissa"),
    ({"init_lora_weights": "loftq"}, "loftq"),
    ({"init_lora_weights": ["olora"]}, "olora"),
    ({"some_new_field": 3}, "some_new_field"),
    ({"rank_pattern": {"(a+)+$": 4}}, "regular expression"),
]


@pytest.mark.parametrize(("config", "words"), REFUSED)
def test_what_is_not_served_is_refused_by_name(tmp_path, config, words):
    with pytest.raises(UnsupportedError, match=words):
        read_adapter(write(tmp_path / "a", config))


@pytest.mark.parametrize(
    "config",
    [
        {"r": 0}, {"r": True}, {"r": "4"}, {"r": 1025}, {"r": None}, {"r": 4.0},
        {"lora_alpha": "8"}, {"lora_alpha": None}, {"lora_alpha": 1e300}, {"lora_alpha": [8]},
        {"use_rslora": "yes"}, {"rank_pattern": ["q_proj"]}, {"rank_pattern": {"q_proj": 10**9}},
        {"alpha_pattern": {"q_proj": {}}}, {"alpha_pattern": 3},
    ],
)  # fmt: skip
def test_nonsense_in_the_config_is_named(tmp_path, config):
    with pytest.raises(AdapterError, match=r"adapter_config|rank"):
        read_adapter(write(tmp_path / "a", config))


def changed(name, value):
    tensors = tensors_of()
    tensors[name] = value
    return tensors


ROWS = np.zeros((4, 6), np.float32)
BAD_TENSORS = {
    "dora": (changed(f"{PREFIX}{Q}.lora_magnitude_vector.weight", ROWS), "DoRA"),
    "embedding": (changed(f"{PREFIX}model.embed_tokens.lora_embedding_A", ROWS), "embedding"),
    "saved": (changed(f"{PREFIX}lm_head.modules_to_save.weight", ROWS), "modules_to_save"),
    "base": (changed(f"{PREFIX}{Q}.base_layer.weight", ROWS), "model itself"),
    "bias": (changed(f"{PREFIX}{Q}.lora_B.bias", ROWS), "no LoRA"),
    "other": (changed("x", ROWS), "no LoRA"),
    "half": (changed(f"{PREFIX}other.lora_A.weight", ROWS), "one half"),
    "twice": (changed(f"{Q}.lora_A.weight", ROWS), "two tensors"),
    "rank": (changed(f"{PREFIX}{Q}.lora_A.weight", np.zeros((5, 6), np.float32)), "rank 4"),
    "vector": (changed(f"{PREFIX}{Q}.lora_A.weight", np.zeros(6, np.float32)), "matrix"),
    "empty": (changed(f"{PREFIX}{Q}.lora_A.weight", np.zeros((4, 0), np.float32)), "matrix"),
    "integers": (changed(f"{PREFIX}{Q}.lora_A.weight", ROWS.astype(np.int32)), "int32"),
    "nan": (changed(f"{PREFIX}{Q}.lora_A.weight", ROWS + np.float32("nan")), "finite"),
    "infinity": (changed(f"{PREFIX}{Q}.lora_A.weight", ROWS.astype(np.float16) + np.float16("inf")), "finite"),
    "none": ({}, "no tensors"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_TENSORS)
def test_tensors_that_are_no_lora_are_refused(tmp_path, case):
    tensors, words = BAD_TENSORS[case]
    with pytest.raises((AdapterError, UnsupportedError), match=words):
        read_adapter(write(tmp_path / "a", {}, tensors))


def test_folders_that_hold_no_adapter_say_what_to_do(tmp_path):
    with pytest.raises(SourceError, match="lacks"):
        read_adapter(tmp_path)
    (tmp_path / "adapter_model.bin").touch()
    with pytest.raises(UnsupportedError, match="safe_serialization"):
        read_adapter(tmp_path)


def test_the_hash_follows_both_files(tmp_path):
    first = read_adapter(write(tmp_path / "a"))
    same = read_adapter(write(tmp_path / "b"))
    other = read_adapter(write(tmp_path / "c", {"lora_alpha": 9}))
    third = read_adapter(write(tmp_path / "d", {}, tensors_of("model.layers.1.self_attn.q_proj")))
    assert first.content_hash == same.content_hash
    assert len({first.content_hash, other.content_hash, third.content_hash}) == 3


def mutated(rng, raw):
    """The bytes with a few changes of kinds that upset readers."""
    data = bytearray(raw)
    for _ in range(rng.choice([1, 1, 2, 5])):
        at, kind = rng.randrange(len(data) + 1), rng.choice(KINDS)
        if kind == "set" and at < len(data):
            data[at] = rng.randrange(256)
        elif kind == "number":
            data[at : at + 8] = struct.pack("<Q", rng.choice(NUMBERS))
        elif kind == "insert":
            data[at:at] = rng.randbytes(rng.randrange(1, 9))
        elif kind == "remove":
            del data[at : at + rng.randrange(1, 9)]
        elif kind == "repeat":
            data[at:at] = data[max(0, at - 16) : at]
        elif kind == "cut":
            del data[at:]
    return bytes(data)


@pytest.mark.parametrize(
    "count", [150, pytest.param(4_000, marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_damaged_folders_are_refused_or_read(tmp_path, count):
    rng = random.Random(count)
    folder = write(tmp_path / "a")
    originals = {name: (folder / name).read_bytes() for name in (CONFIG, WEIGHTS)}
    read = 0
    for _ in range(count):
        name = rng.choice([CONFIG, WEIGHTS])
        for other, raw in originals.items():
            (folder / other).write_bytes(mutated(rng, raw) if other == name else raw)
        try:
            adapter = read_adapter(folder)
        except SlipstreamError as error:
            assert str(error)
        else:
            read += 1
            assert all(np.isfinite(pair.scale) for pair in adapter.pairs.values())
    assert 0 < read < count


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
FIELDS = st.sampled_from(
    ["r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "bias", "task_type",
     "init_lora_weights", "use_dora", "modules_to_save", "peft_type", "target_modules", "new"]
)  # fmt: skip


@settings(max_examples=100, deadline=None, database=None, derandomize=True)
@given(st.dictionaries(FIELDS, JSON, max_size=5))
def test_any_config_is_refused_or_gives_finite_scales(fields):
    try:
        config = parse_config(BASICS | fields)
    except SlipstreamError as error:
        assert str(error)
    else:
        assert math.isfinite(config.scale_of(Q)) and 1 <= config.rank_of(Q) <= 1024

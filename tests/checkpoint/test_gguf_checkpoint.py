"""GGUF as a checkpoint: names and rows against llama.cpp's rules, configs against what models are."""

import hashlib

import gguf
import numpy as np
import pytest
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from slipstream.checkpoint.folder import FolderCheckpoint
from slipstream.checkpoint.gguf_checkpoint import GGUFCheckpoint
from slipstream.checkpoint.gguf_names import ARCHITECTURES, hugging_face_names
from slipstream.errors import GGUFError, UnsupportedError
from slipstream.formats.tensor import AffineTensor

IGNORED = {
    "blk.0.attn_rot_embd",
    "blk.0.ffn_gate_inp",
    "rope_freqs",
    "rope_factors_long",
    "rope_factors_short",
}


@pytest.fixture
def opened(tmp_path, gguf_bytes, tiny_llama):
    """Writes the tiny Llama with changes, and opens it."""

    def make(metadata=None, tensors=None, without=()):
        values, stored = tiny_llama[0] | (metadata or {}), tiny_llama[1] | (tensors or {})
        for key in without:
            values.pop(key, None)
            stored.pop(key, None)
        (tmp_path / "m.gguf").write_bytes(gguf_bytes(values, stored))
        return GGUFCheckpoint(tmp_path / "m.gguf")

    return make


def renamed(metadata: dict, architecture: str, **more) -> dict:
    """The tiny Llama's metadata as that of another architecture."""
    values = {key.replace("llama.", f"{architecture}."): value for key, value in metadata.items()}
    return (
        values
        | {"general.architecture": architecture}
        | {f"{architecture}.{k}": v for k, v in more.items()}
    )


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_names_are_those_of_the_gguf_package_read_backwards(architecture):
    arch = {name: arch for arch, name in gguf.MODEL_ARCH_NAMES.items()}[architecture]
    tensor_map = gguf.get_tensor_name_map(arch, 1)
    kinds = [gguf.TENSOR_NAMES[kind].format(bid=0) for kind in gguf.MODEL_TENSORS[arch]]
    stored = [f"{name}.weight" for name in kinds if name not in IGNORED and "_exps" not in name]
    fused = {"phi3": ("attn_q", "attn_k", "attn_v")}.get(architecture, ())
    stored = [name for name in stored if name not in [f"blk.0.{part}.weight" for part in fused]]
    for ours, theirs in hugging_face_names(architecture, stored).items():
        assert tensor_map.get_name(ours, try_suffixes=(".weight", ".bias")) == theirs


def test_rows_of_queries_and_keys_are_put_back_in_order(opened):
    def as_the_converter_does(weights, heads):  # LlamaModel.permute of llama.cpp's converter
        shape = weights.shape
        return (
            weights.reshape(heads, 2, shape[0] // heads // 2, *shape[1:])
            .swapaxes(1, 2)
            .reshape(shape)
        )

    checkpoint = opened()
    for part, heads in (("q", 4), ("k", 2)):
        tensor = checkpoint.tensor(f"model.layers.0.self_attn.{part}_proj.weight")
        assert isinstance(tensor, AffineTensor)  # not re-quantized
        stored = checkpoint.file.tensor(f"blk.0.attn_{part}.weight").dequantize()
        np.testing.assert_array_equal(as_the_converter_does(tensor.dequantize(), heads), stored)
    value = checkpoint.tensor("model.layers.0.self_attn.v_proj.weight")
    np.testing.assert_array_equal(value.data, checkpoint.file.tensor("blk.0.attn_v.weight").data)


def test_biases_of_queries_follow_their_rows(opened):
    bias = np.arange(32, dtype="<f4")
    checkpoint = opened(tensors={"blk.0.attn_q.bias": ((32,), 0, bias.tobytes())})
    back = checkpoint.tensor("model.layers.0.self_attn.q_proj.bias").data
    assert back[:8].tolist() == [0, 2, 4, 6, 1, 3, 5, 7]
    assert checkpoint.config["attention_bias"] is True


def test_the_config_of_a_llama(opened):
    config = opened().config
    assert config == {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 4, "tie_word_embeddings": True,
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "eos_token_id": [3],
    }  # fmt: skip


def test_a_head_of_its_own_is_not_tied(opened):
    checkpoint = opened(tensors={"output.weight": ((32, 4), 0, bytes(512))})
    assert (
        checkpoint.config["tie_word_embeddings"] is False and "lm_head.weight" in checkpoint.names()
    )


def test_rotary_factors_become_part_of_the_config(opened):
    factors = np.array([1, 1, 2, 8], "<f4")
    checkpoint = opened(tensors={"rope_freqs.weight": ((4,), 0, factors.tobytes())})
    assert checkpoint.config["slipstream_rope_factors"] == [1, 1, 2, 8]
    assert "rope_freqs.weight" not in checkpoint.names()


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_the_scheme_of_llama_3_is_found_again_in_its_factors(opened, factor):
    scheme = {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    config = LlamaConfig(head_dim=128, rope_parameters=scheme | {"rope_theta": 500_000.0})
    scaled = ROPE_INIT_FUNCTIONS["llama3"](config, None)[0].numpy()
    plain = 500_000.0 ** -(np.arange(0, 128, 2) / 128)
    divisors = (plain / scaled).astype("<f4")
    metadata = {"llama.rope.freq_base": 500_000.0}
    checkpoint = opened(metadata, {"rope_freqs.weight": ((64,), 0, divisors.tobytes())})
    assert checkpoint.config["rope_scaling"] == scheme
    assert "slipstream_rope_factors" not in checkpoint.config


def test_factors_of_one_are_no_scaling(opened):
    checkpoint = opened(tensors={"rope_freqs.weight": ((4,), 0, np.ones(4, "<f4").tobytes())})
    assert not {"rope_scaling", "slipstream_rope_factors"} & checkpoint.config.keys()


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf])
def test_factors_that_turn_nothing_are_refused(opened, bad):
    divisors = np.array([1, 1, bad, 1], "<f4")
    with pytest.raises(GGUFError, match="not all above zero"):
        opened(tensors={"rope_freqs.weight": ((4,), 0, divisors.tobytes())})


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"llama.rope.scaling.type": "none"}, None),
        ({"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}, {"rope_type": "linear", "factor": 4.0}),
        ({"llama.rope.scale_linear": 2.0}, {"rope_type": "linear", "factor": 2.0}),
        (
            {"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 4.0, "llama.rope.scaling.original_context_length": 16},
            {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
        ),
    ],
)  # fmt: skip
def test_rotary_scaling_is_told_as_hugging_face_tells_it(opened, metadata, expected):
    assert opened(metadata).config.get("rope_scaling") == expected


def test_gemma_norms_are_without_the_one_that_is_added(tmp_path, gguf_bytes, tiny_llama):
    metadata = renamed(
        tiny_llama[0], "gemma2", attn_logit_softcapping=50.0, final_logit_softcapping=30.0
    )
    metadata |= {
        "gemma2.block_count": 4,
        "gemma2.attention.sliding_window": 16,
        "gemma2.attention.key_length": 16,
        "gemma2.attention.value_length": 16,
    }
    (tmp_path / "m.gguf").write_bytes(gguf_bytes(metadata, tiny_llama[1]))
    checkpoint = GGUFCheckpoint(tmp_path / "m.gguf")
    config = checkpoint.config
    assert (checkpoint.tensor("model.norm.weight").data == 0).all()  # ones in the file
    assert config["head_dim"] == config["query_pre_attn_scalar"] == 16
    assert config["layer_types"] == ["sliding_attention", "full_attention"] * 2
    assert config["hidden_activation"] == "gelu_pytorch_tanh" and config["sliding_window"] == 16
    assert "model.layers.0.pre_feedforward_layernorm.weight" in checkpoint.names()
    rows = checkpoint.tensor("model.layers.0.self_attn.q_proj.weight")  # half-split already
    np.testing.assert_array_equal(
        rows.dequantize(), checkpoint.file.tensor("blk.0.attn_q.weight").dequantize()
    )


def test_phi3_has_two_sets_of_rotary_factors(tmp_path, gguf_bytes, tiny_llama):
    metadata = renamed(tiny_llama[0], "phi3") | {
        "phi3.rope.scaling.original_context_length": 32,
        "phi3.rope.scaling.attn_factor": 1.19,
    }
    tensors = {
        "token_embd.weight": tiny_llama[1]["token_embd.weight"],
        "rope_factors_long.weight": ((4,), 0, np.full(4, 2, "<f4").tobytes()),
        "rope_factors_short.weight": ((4,), 0, np.full(4, 1, "<f4").tobytes()),
        "blk.0.attn_qkv.weight": ((32, 64), 0, bytes(8192)),
    }
    (tmp_path / "m.gguf").write_bytes(gguf_bytes(metadata, tensors))
    config = GGUFCheckpoint(tmp_path / "m.gguf").config
    assert config["rope_scaling"] == {
        "rope_type": "longrope", "long_factor": [2.0] * 4, "short_factor": [1.0] * 4,
        "original_max_position_embeddings": 32, "attention_factor": 1.19,
    }  # fmt: skip


def test_gpt2_says_that_its_matrices_are_turned_already(tmp_path, gguf_bytes, tiny_llama):
    metadata = renamed(tiny_llama[0], "gpt2") | {"gpt2.attention.layer_norm_epsilon": 1e-5}
    tensors = {
        "token_embd.weight": tiny_llama[1]["token_embd.weight"],
        "blk.0.attn_qkv.weight": ((32, 96), 0, bytes(12288)),
        "blk.0.attn_qkv.bias": ((96,), 0, bytes(384)),
    }
    (tmp_path / "m.gguf").write_bytes(gguf_bytes(metadata, tensors))
    checkpoint = GGUFCheckpoint(tmp_path / "m.gguf")
    assert checkpoint.config["slipstream_conv1d"] is False and checkpoint.config["n_embd"] == 32
    assert checkpoint.tensor("transformer.h.0.attn.c_attn.weight").shape == (96, 32)
    assert "transformer.h.0.attn.c_attn.bias" in checkpoint.names()


def test_smollm3_leaves_every_fourth_layer_without_positions(tmp_path, gguf_bytes, tiny_llama):
    metadata = renamed(tiny_llama[0], "smollm3") | {"smollm3.block_count": 5}
    (tmp_path / "m.gguf").write_bytes(gguf_bytes(metadata, tiny_llama[1]))
    assert GGUFCheckpoint(tmp_path / "m.gguf").config["no_rope_layers"] == [1, 1, 1, 0, 1]


def test_the_tokenizer_is_read_when_asked_for(opened):
    data = opened().tokenizer
    assert data.gguf["tokens"] == ["a", "b", "é", "<end>"] and data.gguf["model"] == "gpt2"
    assert data.json_path is None and data.chat_template == "{{ messages }}"
    assert data.config == {"add_bos_token": False}


def test_every_token_that_ends_a_turn_is_named(opened):
    checkpoint = opened({"tokenizer.ggml.eot_token_id": 1, "tokenizer.ggml.eom_token_id": 3})
    assert checkpoint.config["eos_token_id"] == [3, 1]


def test_identity_is_the_hash_of_the_file(opened):
    checkpoint = opened()
    assert checkpoint.identity() == hashlib.sha256(checkpoint.path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"metadata": {"general.architecture": "mamba"}}, UnsupportedError, "'mamba' are not supported"),
        ({"metadata": {"general.architecture": 3}}, GGUFError, "does not name its architecture"),
        ({"metadata": {"llama.expert_count": 8}}, UnsupportedError, "mixtures of experts"),
        ({"metadata": {"llama.rope.scaling.type": "magic"}}, UnsupportedError, "magic"),
        ({"metadata": {"llama.attention.head_count": 0}}, GGUFError, "positive integer"),
        ({"metadata": {"llama.attention.head_count": "4"}}, GGUFError, "'4', not a positive"),
        ({"metadata": {"llama.attention.head_count": [4, 2]}}, GGUFError, "a list of 2"),
        ({"metadata": {"llama.block_count": 1 << 30}}, GGUFError, "layers"),
        ({"metadata": {"llama.rope.freq_base": "x"}}, GGUFError, "not a number"),
        ({"without": ["llama.embedding_length"]}, GGUFError, "embedding_length is missing"),
        ({"without": ["token_embd.weight"]}, GGUFError, "token_embd.weight is missing"),
        ({"tensors": {"blk.0.ffn_gate_exps.weight": ((32,), 0, bytes(128))}}, UnsupportedError, "mixture"),
        ({"tensors": {"rope_freqs.weight": ((2, 2), 0, bytes(16))}}, GGUFError, "rotary factors"),
    ],
)  # fmt: skip
def test_models_that_cannot_be_are_refused_in_words(opened, change, error, words):
    with pytest.raises(error, match=words):
        opened(**change)


def test_heads_that_do_not_fit_the_rows_are_refused(opened):
    checkpoint = opened({"llama.attention.head_count": 5, "llama.attention.key_length": 8})
    with pytest.raises(GGUFError, match="cannot share"):
        checkpoint.tensor("model.layers.0.self_attn.q_proj.weight")


def test_smollm2_reads_as_the_gguf_package_reads_it(smollm2_path):
    checkpoint = GGUFCheckpoint(smollm2_path)
    assert len(checkpoint.names()) == 272 and checkpoint.config["tie_word_embeddings"]
    info = checkpoint.file.tensors["blk.7.ffn_down.weight"]
    raw = np.fromfile(smollm2_path, np.uint8, info.size_bytes, offset=info.offset)
    expected = gguf.quants.dequantize(
        raw.reshape(info.shape[0], -1), gguf.GGMLQuantizationType.Q4_1
    )
    tensor = checkpoint.tensor("model.layers.7.mlp.down_proj.weight")
    np.testing.assert_array_equal(tensor.dequantize(), expected)


def test_two_conversions_of_one_model_have_equal_tensors(shared_data):
    folder = shared_data / "models" / "stories260K"
    ours, theirs = GGUFCheckpoint(folder / "stories260K.gguf"), FolderCheckpoint(folder / "hf")
    for name in theirs.names():
        np.testing.assert_array_equal(
            ours.tensor(name).dequantize(), theirs.tensor(name).dequantize()
        )
    same = [
        "hidden_size",
        "num_key_value_heads",
        "rms_norm_eps",
        "rope_theta",
        "vocab_size",
        "eos_token_id",
    ]
    assert {key: ours.config[key] for key in same} == {key: theirs.config[key] for key in same}


@pytest.mark.slow
def test_smollm2_has_the_weights_that_transformers_reads(smollm2_path):
    import torch
    from transformers import LlamaForCausalLM
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    config = load_gguf_checkpoint(str(smollm2_path))["config"]
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**config))
    read = load_gguf_checkpoint(str(smollm2_path), return_tensors=True, model_to_load=model)
    checkpoint = GGUFCheckpoint(smollm2_path)
    assert set(read["tensors"]) == set(checkpoint.names())
    for name in checkpoint.names():
        expected = np.asarray(read["tensors"][name])
        np.testing.assert_array_equal(checkpoint.tensor(name).dequantize(), expected)

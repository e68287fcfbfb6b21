"""For every architecture: a GGUF file and a config.json of the same model describe the same graph.

The metadata here is what llama.cpp's converter writes for the config beside it.
"""

import pytest

from slipstream.checkpoint.gguf_checkpoint import GGUFCheckpoint
from slipstream.models.registry import blueprint_of

# (architecture in GGUF, config.json, what the converter writes beyond the common keys)
SMALL = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 6, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 16, "vocab_size": 8, "max_position_embeddings": 128, "rms_norm_eps": 1e-6, "rope_theta": 50000.0,
}  # fmt: skip
MODELS = {
    "llama": ("llama", {"model_type": "llama"}, {}),
    "llama, tied": ("llama", {"model_type": "llama", "tie_word_embeddings": True}, {}),
    "llama, linear": (
        "llama",
        {"model_type": "llama", "rope_scaling": {"rope_type": "linear", "factor": 4.0}},
        {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0},
    ),
    "qwen2": ("qwen2", {"model_type": "qwen2"}, {}),
    "qwen2, yarn": (
        "qwen2",
        {"model_type": "qwen2", "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}},
        {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 32},
    ),
    "qwen3": ("qwen3", {"model_type": "qwen3", "tie_word_embeddings": True}, {}),
    "smollm3": ("smollm3", {"model_type": "smollm3", "tie_word_embeddings": True}, {}),
    "gemma2": (
        "gemma2",
        {"model_type": "gemma2", "query_pre_attn_scalar": 16, "sliding_window": 32, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "tie_word_embeddings": True},
        {"attention.sliding_window": 32, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
    ),
    "gemma3": (
        "gemma3",
        {"model_type": "gemma3_text", "query_pre_attn_scalar": 16, "sliding_window": 32, "rope_local_base_freq": 10000.0, "tie_word_embeddings": True},
        {"attention.sliding_window": 32},
    ),
    "gemma3, scaled": (
        "gemma3",
        {"model_type": "gemma3_text", "query_pre_attn_scalar": 16, "sliding_window": 32, "tie_word_embeddings": True, "rope_scaling": {"rope_type": "linear", "factor": 8.0}},
        {"attention.sliding_window": 32, "rope.scaling.type": "linear", "rope.scaling.factor": 8.0},
    ),
    "phi3": ("phi3", {"model_type": "phi3", "sliding_window": 64}, {"attention.sliding_window": 64}),
    "phi3, partial": ("phi3", {"model_type": "phi3", "partial_rotary_factor": 0.75}, {"rope.dimension_count": 12}),
    "olmo2": ("olmo2", {"model_type": "olmo2"}, {}),
}  # fmt: skip


def common_keys(architecture: str, config: dict) -> dict:
    names = {
        "block_count": "num_hidden_layers", "context_length": "max_position_embeddings", "embedding_length": "hidden_size",
        "feed_forward_length": "intermediate_size", "attention.head_count": "num_attention_heads",
        "attention.head_count_kv": "num_key_value_heads", "attention.layer_norm_rms_epsilon": "rms_norm_eps",
        "rope.freq_base": "rope_theta", "attention.key_length": "head_dim", "attention.value_length": "head_dim",
    }  # fmt: skip
    return {"general.architecture": architecture} | {
        f"{architecture}.{key}": config[name] for key, name in names.items()
    }


def embeddings(width: int, tied: bool) -> dict:
    matrix = ((width, 8), 0, bytes(width * 32))
    return (
        {"token_embd.weight": matrix}
        if tied
        else {"token_embd.weight": matrix, "output.weight": matrix}
    )


@pytest.mark.parametrize("name", MODELS)
def test_both_files_of_a_model_describe_one_graph(tmp_path, gguf_bytes, name):
    architecture, own, more = MODELS[name]
    config = SMALL | own
    metadata = common_keys(architecture, config) | {
        f"{architecture}.{key}": value for key, value in more.items()
    }
    tied = config.get("tie_word_embeddings", False)
    (tmp_path / "m.gguf").write_bytes(gguf_bytes(metadata, embeddings(32, tied)))
    ours = blueprint_of(GGUFCheckpoint(tmp_path / "m.gguf").config)
    theirs = blueprint_of(config)
    assert ours.graph == theirs.graph
    assert ours.shapes == theirs.shapes


def test_gpt2_differs_only_in_the_turning_of_its_matrices(tmp_path, gguf_bytes):
    config = {"model_type": "gpt2", "n_embd": 32, "n_head": 4, "n_layer": 2, "n_positions": 64, "vocab_size": 8, "layer_norm_epsilon": 1e-5}  # fmt: skip
    metadata = {
        "general.architecture": "gpt2", "gpt2.block_count": 2, "gpt2.context_length": 64, "gpt2.embedding_length": 32,
        "gpt2.feed_forward_length": 128, "gpt2.attention.head_count": 4, "gpt2.attention.layer_norm_epsilon": 1e-5,
    }  # fmt: skip
    (tmp_path / "m.gguf").write_bytes(gguf_bytes(metadata, embeddings(32, tied=True)))
    ours = blueprint_of(GGUFCheckpoint(tmp_path / "m.gguf").config)
    theirs = blueprint_of(config)
    turned = {name.replace(".weight.T", ".weight"): shape for name, shape in theirs.shapes.items()}
    assert ours.shapes == turned and ours.shapes != theirs.shapes
    assert ours.graph == blueprint_of(config | {"slipstream_conv1d": False}).graph

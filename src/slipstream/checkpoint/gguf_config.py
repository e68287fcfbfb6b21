"""From GGUF's metadata to a config.json: the sizes, and what each architecture has of its own.

`gguf_checkpoint` calls `hugging_face_config`. What GGUF leaves unsaid (activations, windows,
scales) is filled in as llama.cpp does. Two keys are our own, where Hugging Face has none:

    slipstream_rope_factors   one divisor per rotary frequency, where no known scheme made them
    slipstream_conv1d         false for GPT-2: GGUF's matrices are [out, in] like everyone else's
"""

from collections.abc import Callable, Mapping
from typing import Any

from slipstream.checkpoint.gguf import GGUFFile
from slipstream.checkpoint.gguf_fields import Fields
from slipstream.checkpoint.gguf_rope import rope_scaling
from slipstream.errors import GGUFError, UnsupportedError

Config = dict[str, Any]

_MOST_LAYERS = 1 << 16


def hugging_face_config(file: GGUFFile, architecture: str) -> Config:
    """The config of a model whose architecture is one of `gguf_names.ARCHITECTURES`."""
    fields = Fields(file, architecture)
    if fields.get("expert_count", 0):
        raise UnsupportedError("mixtures of experts are not supported yet")
    config = _ends(file) | _PAGES[architecture](fields)
    eos = _end_ids(file.metadata)
    if eos:
        config["eos_token_id"] = eos
    return config


def _ends(file: GGUFFile) -> Config:
    """What is common to all: vocabulary, tied head, special tokens."""
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise GGUFError("the matrix token_embd.weight is missing: is this a language model?")
    config: Config = {
        "vocab_size": embedding.shape[0],
        "tie_word_embeddings": "output.weight" not in file.tensors,
    }
    for key, name in (("bos_token_id", "bos_token_id"), ("pad_token_id", "padding_token_id")):
        value = file.metadata.get(f"tokenizer.ggml.{name}")
        if type(value) is int:
            config[key] = value
    return config


def _end_ids(metadata: Mapping[str, Any]) -> list[int]:
    """Every token that ends an answer: end of sequence, of turn, of message."""
    keys = [f"tokenizer.ggml.{name}_token_id" for name in ("eos", "eot", "eom")]
    ids = [metadata[key] for key in keys if type(metadata.get(key)) is int]
    return list(dict.fromkeys(ids))


def _decoder(fields: Fields, model_type: str, architecture: str) -> Config:
    """The part that every architecture but GPT-2 shares."""
    width, heads = fields.integer("embedding_length"), fields.integer("attention.head_count")
    head_dim = fields.integer("attention.key_length", width // heads)
    if fields.integer("attention.value_length", head_dim) != head_dim:
        raise UnsupportedError("keys and values of different lengths are not supported")
    config: Config = {
        "architectures": [architecture],
        "model_type": model_type,
        "hidden_size": width,
        "intermediate_size": fields.integer("feed_forward_length"),
        "num_hidden_layers": _layers(fields),
        "num_attention_heads": heads,
        "num_key_value_heads": fields.integer("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "max_position_embeddings": fields.integer("context_length"),
        "rms_norm_eps": fields.number("attention.layer_norm_rms_epsilon"),
        "rope_theta": fields.number("rope.freq_base", 10_000.0),
        "hidden_act": "silu",
    }
    turned = fields.integer("rope.dimension_count", head_dim)
    if turned != head_dim:
        config["partial_rotary_factor"] = turned / head_dim
    return config | rope_scaling(fields)


def _layers(fields: Fields) -> int:
    layers = fields.integer("block_count")
    if layers > _MOST_LAYERS:
        raise GGUFError(f"the file announces {layers} layers: it is damaged")
    return layers


def _llama(fields: Fields) -> Config:
    config = _decoder(fields, "llama", "LlamaForCausalLM")
    config["attention_bias"] = "blk.0.attn_q.bias" in fields.file.tensors
    config["mlp_bias"] = "blk.0.ffn_down.bias" in fields.file.tensors
    return config


def _smollm3(fields: Fields) -> Config:
    config = _decoder(fields, "smollm3", "SmolLM3ForCausalLM")
    layers = config["num_hidden_layers"]
    config["no_rope_layer_interval"] = 4  # fixed in llama.cpp
    config["no_rope_layers"] = [int((layer + 1) % 4 != 0) for layer in range(layers)]
    config["attention_bias"] = "blk.0.attn_q.bias" in fields.file.tensors
    return config


def _qwen2(fields: Fields) -> Config:
    return _decoder(fields, "qwen2", "Qwen2ForCausalLM") | {"use_sliding_window": False}


def _qwen3(fields: Fields) -> Config:
    config = _decoder(fields, "qwen3", "Qwen3ForCausalLM") | {"use_sliding_window": False}
    config["attention_bias"] = "blk.0.attn_q.bias" in fields.file.tensors
    return config


def _gemma2(fields: Fields) -> Config:
    config = _decoder(fields, "gemma2", "Gemma2ForCausalLM") | _gemma(fields, every=2, large=46)
    config["attn_logit_softcapping"] = fields.number("attn_logit_softcapping", 50.0)
    config["final_logit_softcapping"] = fields.number("final_logit_softcapping", 30.0)
    return config


def _gemma3(fields: Fields) -> Config:
    config = _decoder(fields, "gemma3_text", "Gemma3ForCausalLM") | _gemma(
        fields, every=6, large=62
    )
    config["rope_theta"] = fields.number("rope.freq_base", 1_000_000.0)
    config["rope_local_base_freq"] = fields.number("rope.freq_base_swa", 10_000.0)
    config["sliding_window_pattern"] = 6
    for name in ("attn_logit_softcapping", "final_logit_softcapping"):
        config[name] = fields.number(name) if fields.has(name) else None
    return config


def _gemma(fields: Fields, every: int, large: int) -> Config:
    """What Gemma 2 and 3 share. Only the 27B models, known by their depth, scale by the width."""
    width, heads = fields.integer("embedding_length"), fields.integer("attention.head_count")
    layers = _layers(fields)
    head_dim = fields.integer("attention.key_length", width // heads)
    full, sliding = "full_attention", "sliding_attention"
    return {
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": width // heads if layers == large else head_dim,
        "sliding_window": fields.integer("attention.sliding_window", 4096 if every == 2 else 1024),
        "layer_types": [sliding if (i + 1) % every else full for i in range(layers)],
    }


def _phi3(fields: Fields) -> Config:
    config = _decoder(fields, "phi3", "Phi3ForCausalLM")
    window = fields.get("attention.sliding_window", 0)
    config["sliding_window"] = window if type(window) is int and window > 0 else None
    return config


def _olmo2(fields: Fields) -> Config:
    if fields.has("attention.sliding_window"):
        raise UnsupportedError("OLMo 3, the OLMo 2 with sliding windows, is not supported yet")
    return _decoder(fields, "olmo2", "Olmo2ForCausalLM") | {"attention_bias": False}


def _gpt2(fields: Fields) -> Config:
    width = fields.integer("embedding_length")
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "n_embd": width,
        "n_inner": fields.integer("feed_forward_length", 4 * width),
        "n_layer": _layers(fields),
        "n_head": fields.integer("attention.head_count"),
        "n_positions": fields.integer("context_length"),
        "layer_norm_epsilon": fields.number("attention.layer_norm_epsilon", 1e-5),
        "activation_function": "gelu_new",
        "slipstream_conv1d": False,
    }


_PAGES: dict[str, Callable[[Fields], Config]] = {
    "llama": _llama,
    "smollm3": _smollm3,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "gemma2": _gemma2,
    "gemma3": _gemma3,
    "phi3": _phi3,
    "olmo2": _olmo2,
    "gpt2": _gpt2,
}

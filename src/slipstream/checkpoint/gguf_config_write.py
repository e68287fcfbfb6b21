"""From a config.json to GGUF's metadata: the inverse of `gguf_config`, one table for the sizes.

`gguf_write` calls `gguf_architecture` and `gguf_metadata`. What a config says that GGUF cannot is
not looked for here: the caller reads the file back and compares the graphs of both.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slipstream.errors import FileFormatError, UnsupportedError

Config = Mapping[str, Any]
Metadata = dict[str, Any]
Factors = dict[str, NDArray[np.float32]]  # tensors of rotary factors

_ARCHITECTURES = {
    "llama": "llama",
    "mistral": "llama",
    "smollm3": "smollm3",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma2": "gemma2",
    "gemma3_text": "gemma3",
    "phi3": "phi3",
    "olmo2": "olmo2",
    "gpt2": "gpt2",
}
_SIZES = {
    "block_count": ("num_hidden_layers", "n_layer"),
    "context_length": ("max_position_embeddings", "n_positions"),
    "embedding_length": ("hidden_size", "n_embd"),
    "feed_forward_length": ("intermediate_size", "n_inner"),
    "attention.head_count": ("num_attention_heads", "n_head"),
    "attention.head_count_kv": ("num_key_value_heads",),
    "attention.key_length": ("head_dim",),
    "attention.value_length": ("head_dim",),
    "attention.sliding_window": ("sliding_window",),
}
_NUMBERS = {
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "attention.layer_norm_epsilon": "layer_norm_epsilon",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
    "rope.freq_base_swa": "rope_local_base_freq",
}
_WINDOWED = ("gemma2", "gemma3", "phi3")  # llama.cpp gives windows to these alone


def gguf_architecture(config: Config) -> str:
    """GGUF's name of the architecture; UnsupportedError where llama.cpp has none that we read."""
    found = _ARCHITECTURES.get(str(config.get("model_type")))
    if found is None:
        raise UnsupportedError(
            f"models of the type {str(config.get('model_type'))[:40]!r} are not written as GGUF;"
            f" these are: {', '.join(_ARCHITECTURES)}"
        )
    return found


def gguf_metadata(config: Config, architecture: str) -> tuple[Metadata, Factors]:
    """Keys with the architecture before them, and the rotary factors that are kept as tensors."""
    found: Metadata = {}
    for key, spellings in _SIZES.items():
        value = next((config[name] for name in spellings if config.get(name) is not None), None)
        if value is not None:
            found[key] = _integer(key, value)
    if architecture not in _WINDOWED:
        _without_window(config, found)
    for key, name in _NUMBERS.items():
        if config.get(name) is not None:
            found[key] = _number(name, config[name])
    if architecture == "gpt2":
        found.setdefault("feed_forward_length", 4 * found["embedding_length"])
        return _prefixed(found, architecture), {}
    head_dim = found.get(
        "attention.key_length", found["embedding_length"] // found["attention.head_count"]
    )
    rope, factors = _rope(config, head_dim, found["context_length"])
    return _prefixed(found | rope, architecture), factors


def _without_window(config: Config, found: Metadata) -> None:
    """Where llama.cpp knows no window, the context ends where the window would begin to matter."""
    window = found.pop("attention.sliding_window", None)
    if window is not None and config.get("use_sliding_window", True):
        found["context_length"] = min(window, found["context_length"])


def _rope(config: Config, head_dim: int, context: int) -> tuple[Metadata, Factors]:
    """Frequencies and how they are scaled, in either spelling of Hugging Face."""
    said = config.get("rope_parameters") or config.get("rope_scaling") or {}
    local: Mapping[str, Any] = {}
    if isinstance(said.get("full_attention"), Mapping):  # Gemma 3 in transformers 5
        local, said = said.get("sliding_attention") or {}, said["full_attention"]
    found: Metadata = {}
    theta = said.get("rope_theta", config.get("rope_theta"))
    if theta is None:
        theta = 1e6 if config.get("model_type") == "gemma3_text" else 1e4
    found["rope.freq_base"] = _number("rope_theta", theta)
    if local.get("rope_theta") is not None:
        found["rope.freq_base_swa"] = _number("rope_theta", local["rope_theta"])
    share = said.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0))
    dims = int(head_dim * _number("partial_rotary_factor", share))
    found["rope.dimension_count"] = dims
    factors: Factors = {}
    if config.get("slipstream_rope_factors") is not None:
        factors["rope_freqs.weight"] = np.asarray(config["slipstream_rope_factors"], np.float32)
    kind = said.get("rope_type", said.get("type", "default"))
    scaled, more = _scaling(str(kind), said, config, dims=dims, theta=float(theta), context=context)
    return found | scaled, factors | more


def _scaling(
    kind: str, said: Mapping[str, Any], config: Config, *, dims: int, theta: float, context: int
) -> tuple[Metadata, Factors]:
    if kind == "default":
        return {}, {}
    if kind == "llama3":
        return {}, {"rope_freqs.weight": _llama3_divisors(said, dims, theta, context)}
    original = config.get("original_max_position_embeddings") or said.get(
        "original_max_position_embeddings"
    )
    if kind == "longrope":
        parts = {
            f"rope_factors_{name}.weight": said[f"{name}_factor"] for name in ("long", "short")
        }
        keys: Metadata = {
            "rope.scaling.original_context_length": _integer("original", original or context)
        }
        if said.get("attention_factor") is not None:
            keys["rope.scaling.attn_factor"] = _number("attention_factor", said["attention_factor"])
        return keys, {name: np.asarray(part, np.float32) for name, part in parts.items()}
    if kind not in ("linear", "yarn"):
        raise UnsupportedError(f"rotary scaling of the type {kind[:40]!r} is not written as GGUF")
    factor = said.get("factor", None if original is None else context / original)
    found: Metadata = {"rope.scaling.type": kind, "rope.scaling.factor": _number("factor", factor)}
    if kind == "yarn":
        found["rope.scaling.original_context_length"] = _integer("original", original or context)
        names = {"attn_factor": "attention_factor", "yarn_beta_fast": "beta_fast"}
        for key, name in (names | {"yarn_beta_slow": "beta_slow"}).items():
            if said.get(name) is not None:
                found[f"rope.scaling.{key}"] = _number(name, said[name])
    return found, {}


def _llama3_divisors(
    said: Mapping[str, Any], dims: int, theta: float, context: int
) -> NDArray[np.float32]:
    """Long waves are stretched by the factor, short ones kept, those between blended."""
    original = said.get("original_max_position_embeddings", context)
    low, high = (float(said.get(f"{end}_freq_factor", 0)) for end in ("low", "high"))
    if not high > low > 0:
        raise FileFormatError("config.json: high_freq_factor must exceed low_freq_factor")
    turns = original * theta ** -(np.arange(0, dims, 2) / dims) / (2 * math.pi)
    kept = np.clip((turns - low) / (high - low), 0, 1)
    divisors = 1 / ((1 - kept) / _number("factor", said.get("factor")) + kept)
    return np.asarray(divisors, np.float32)


def _prefixed(found: Metadata, architecture: str) -> Metadata:
    return {f"{architecture}.{key}": value for key, value in found.items()}


def _integer(name: str, value: Any) -> int:
    if type(value) is not int or not 0 < value < 1 << 31:
        raise UnsupportedError(
            f"{name} is {str(value)[:40]!r}, which GGUF cannot say in one number"
        )
    return value


def _number(name: str, value: Any) -> float:
    if type(value) not in (int, float):
        raise FileFormatError(f"{name} in config.json is {str(value)[:40]!r}, not a number")
    return float(value)

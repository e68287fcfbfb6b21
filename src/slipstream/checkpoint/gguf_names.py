"""From GGUF's tensor names to Hugging Face's, one table per architecture.

`gguf_checkpoint` calls `hugging_face_names`. The tables are those of llama.cpp's converter read
backwards; a tensor that no table knows is an error, except the few that hold rotary factors, which
become part of the config.
"""

import re
from collections.abc import Iterable, Mapping

from slipstream.errors import UnsupportedError

# Per-dimension factors of rotary frequencies; `gguf_config` puts them into the config.
ROPE_TENSORS = frozenset(
    ["rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"]
)

_BLOCK = re.compile(r"blk\.(0|[1-9]\d{0,5})\.(.+)")

_ENDS = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_ATTENTION = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
}
_HEAD_NORMS = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
_GATED = {"ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
_TWO_NORMS = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
_AFTER_NORMS = {
    "post_attention_norm": "post_attention_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_FOUR_NORMS = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    **_AFTER_NORMS,
}
_PHI3 = {
    "attn_qkv": "self_attn.qkv_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_up": "mlp.gate_up_proj",
    "ffn_down": "mlp.down_proj",
}
_GPT2_ENDS = {
    "token_embd": "transformer.wte",
    "position_embd": "transformer.wpe",
    "output_norm": "transformer.ln_f",
    "output": "lm_head",
}
_GPT2 = {
    "attn_norm": "ln_1",
    "attn_qkv": "attn.c_attn",
    "attn_output": "attn.c_proj",
    "ffn_norm": "ln_2",
    "ffn_up": "mlp.c_fc",
    "ffn_down": "mlp.c_proj",
}

_LAYERS: dict[str, Mapping[str, str]] = {
    "llama": _ATTENTION | _GATED | _TWO_NORMS,
    "smollm3": _ATTENTION | _GATED | _TWO_NORMS,
    "qwen2": _ATTENTION | _GATED | _TWO_NORMS,
    "qwen3": _ATTENTION | _GATED | _TWO_NORMS | _HEAD_NORMS,
    "gemma2": _ATTENTION | _GATED | _FOUR_NORMS,
    "gemma3": _ATTENTION | _GATED | _FOUR_NORMS | _HEAD_NORMS,
    "phi3": _PHI3 | _TWO_NORMS,
    "olmo2": _ATTENTION | _GATED | _AFTER_NORMS | _HEAD_NORMS,
    "gpt2": _GPT2,
}

ARCHITECTURES = tuple(_LAYERS)


def hugging_face_names(architecture: str, names: Iterable[str]) -> dict[str, str]:
    """Hugging Face name → GGUF name, of every tensor but the rotary factors.

    UnsupportedError for an architecture or a tensor that is not known. GGUF keeps a name unique,
    and each table is one-to-one, so the results are unique too.
    """
    if architecture not in _LAYERS:
        raise UnsupportedError(
            f"GGUF models of the architecture {architecture!r} are not supported; these are:"
            f" {', '.join(ARCHITECTURES)}"
        )
    return {
        hugging_face_name(architecture, name): name for name in names if name not in ROPE_TENSORS
    }


def hugging_face_name(architecture: str, name: str) -> str:
    """The Hugging Face name of one tensor: ``output_norm.weight`` → ``model.norm.weight``."""
    stem, _, suffix = name.rpartition(".")
    block = _BLOCK.fullmatch(stem)
    ends, prefix = (
        (_GPT2_ENDS, "transformer.h") if architecture == "gpt2" else (_ENDS, "model.layers")
    )
    found = ends.get(stem) if block is None else _LAYERS[architecture].get(block[2])
    if found is None or suffix not in ("weight", "bias"):
        raise UnsupportedError(
            f"the tensor {name!r} is unknown in models of the architecture {architecture!r}: is it"
            " a mixture of experts, or a model with an adapter? Those are not supported"
        )
    return f"{found}.{suffix}" if block is None else f"{prefix}.{block[1]}.{found}.{suffix}"


def gguf_names(architecture: str, names: Iterable[str]) -> dict[str, str]:
    """Hugging Face name → GGUF name, the inverse of `hugging_face_name`.

    UnsupportedError for an architecture or a tensor that GGUF has no name for.
    """
    if architecture not in _LAYERS:
        raise UnsupportedError(f"GGUF files of the architecture {architecture!r} are not written")
    return {name: _gguf_name(architecture, name) for name in names}


def _gguf_name(architecture: str, name: str) -> str:
    ends, prefix = (
        (_GPT2_ENDS, "transformer.h") if architecture == "gpt2" else (_ENDS, "model.layers")
    )
    stem, _, suffix = name.rpartition(".")
    layer = re.fullmatch(rf"{re.escape(prefix)}\.(\d+)\.(.+)", stem)
    table = ends if layer is None else _LAYERS[architecture]
    stems = {ours: theirs for theirs, ours in table.items()}
    found = stems.get(stem if layer is None else layer[2])
    if found is None or suffix not in ("weight", "bias"):
        raise UnsupportedError(f"GGUF has no name for the tensor {name!r} of {architecture!r}")
    return f"{found}.{suffix}" if layer is None else f"blk.{layer[1]}.{found}.{suffix}"

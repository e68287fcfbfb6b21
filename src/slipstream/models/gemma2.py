"""Gemma 2: norms before and after each block, soft caps, and a window in every other layer."""

import ml_dtypes
import numpy as np

from slipstream.graph import ops
from slipstream.models import blocks
from slipstream.models.blocks import AttentionStyle, Blueprint, MlpStyle, NormStyle, Page
from slipstream.models.config import Config, Sizes, read_sizes
from slipstream.models.rope import apply_factors, read_rope

DEFAULTS = {
    "head_dim": 256,
    "sliding_window": 4096,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
}


def build(config: Config) -> Blueprint:
    """Describes a Gemma 2."""
    config = config.filled(DEFAULTS)
    config.refuse("use_bidirectional_attention", False)
    sizes = read_sizes(config)
    rope = apply_factors(read_rope(config, sizes), config)
    norm = NormStyle(config.number("rms_norm_eps", 1e-6), config.norm_offset(1.0))
    bias = config.flag("attention_bias", False)
    mlp = MlpStyle(config.choice("hidden_activation", "gelu_pytorch_tanh", blocks.ACTIVATIONS))
    window = config.optional_integer("sliding_window")
    sliding = [layer % 2 == 0 for layer in range(sizes.layers)]
    page = Page(sizes=sizes)
    x = page.embed("model.embed_tokens.weight", embedding_scale(config, sizes))
    for layer, seen in enumerate(blocks.layer_windows(config, sizes, window, sliding)):
        attention = AttentionStyle(
            config.number("query_pre_attn_scalar", 256.0) ** -0.5,
            rope,
            seen,
            soft_cap=config.optional_number("attn_logit_softcapping"),
            bias=bias,
            output_bias=bias,
        )
        x = sandwich_layer(page, layer, x, norm, (attention, mlp))
    x = page.norm("norm", x, "model.norm.weight", norm)
    head = blocks.head_of(config.flag("tie_word_embeddings", True))
    cap = config.optional_number("final_logit_softcapping")
    return page.finish("gemma2", x, head, context=rope.context, cap=cap)


def sandwich_layer(
    page: Page, layer: int, x: str, norm: NormStyle, styles: tuple[AttentionStyle, MlpStyle]
) -> str:
    """Gemma's layer: norm → attention → norm → add, norm → gated MLP → norm → add."""
    at, stored = f"layers.{layer}", f"model.layers.{layer}"
    h = page.norm(f"{at}.attention.norm", x, f"{stored}.input_layernorm.weight", norm)
    h = blocks.attention(page, layer, h, f"{stored}.self_attn", styles[0])
    after = f"{stored}.post_attention_layernorm.weight"
    h = page.norm(f"{at}.attention.post_norm", h, after, norm)
    x = page.add(f"{at}.attention.add", ops.Add(), x, h)
    h = page.norm(f"{at}.mlp.norm", x, f"{stored}.pre_feedforward_layernorm.weight", norm)
    h = blocks.gated_mlp(page, layer, h, f"{stored}.mlp", styles[1])
    after = f"{stored}.post_feedforward_layernorm.weight"
    h = page.norm(f"{at}.mlp.post_norm", h, after, norm)
    return page.add(f"{at}.mlp.add", ops.Add(), x, h)


def embedding_scale(config: Config, sizes: Sizes) -> float:
    """sqrt(width), rounded to the dtype of the checkpoint, as the model was trained."""
    scale = np.float32(sizes.width**0.5)
    stored = config.values.get("dtype", config.values.get("torch_dtype"))
    dtypes = {"bfloat16": ml_dtypes.bfloat16, "float16": np.float16}
    return (
        float(scale.astype(dtypes[stored])) if stored in ("bfloat16", "float16") else float(scale)
    )

"""Llama 2 and 3.x, SmolLM2, and Mistral, which is a Llama with a sliding window."""

from slipstream.graph import ops
from slipstream.models import blocks
from slipstream.models.blocks import AttentionStyle, Blueprint, NormStyle, Page
from slipstream.models.config import Config, read_sizes
from slipstream.models.rope import apply_factors, read_rope


def build(config: Config) -> Blueprint:
    """Describes a Llama: norm → attention → add, norm → gated MLP → add, in every layer."""
    sizes = read_sizes(config)
    rope = apply_factors(read_rope(config, sizes), config)
    norm = NormStyle(config.number("rms_norm_eps", 1e-6))
    kind = config.choice("hidden_act", "silu", blocks.ACTIVATIONS)
    attention_bias = config.flag("attention_bias", False)
    mlp_bias = config.flag("mlp_bias", False)
    style = AttentionStyle(
        scale=sizes.head_dim**-0.5,
        rope=rope,
        window=config.optional_integer("sliding_window"),
        bias=attention_bias,
        output_bias=attention_bias,
    )
    page = Page(sizes=sizes)
    x = page.embed("model.embed_tokens.weight")
    for layer in range(sizes.layers):
        at, stored = f"layers.{layer}", f"model.layers.{layer}"
        h = page.norm(f"{at}.attention.norm", x, f"{stored}.input_layernorm.weight", norm)
        h = blocks.attention(page, layer, h, f"{stored}.self_attn", style)
        x = page.add(f"{at}.attention.add", ops.Add(), x, h)
        h = page.norm(f"{at}.mlp.norm", x, f"{stored}.post_attention_layernorm.weight", norm)
        h = blocks.gated_mlp(page, layer, h, f"{stored}.mlp", kind, bias=mlp_bias)
        x = page.add(f"{at}.mlp.add", ops.Add(), x, h)
    x = page.norm("norm", x, "model.norm.weight", norm)
    head = blocks.head_of(config.flag("tie_word_embeddings", False))
    return page.finish("llama", x, head, context=rope.context)

"""Llama 2 and 3.x, SmolLM2, and Mistral, which is a Llama with a sliding window."""

from slipstream.models import blocks
from slipstream.models.blocks import AttentionStyle, Blueprint, MlpStyle, NormStyle, Page
from slipstream.models.config import Config, read_sizes
from slipstream.models.rope import apply_factors, read_rope

MISTRAL_DEFAULTS = {"num_key_value_heads": 8, "sliding_window": 4096}


def build(config: Config, window: int | None = None) -> Blueprint:
    """Describes a Llama; with `window`, each position sees only that many."""
    sizes = read_sizes(config)
    rope = apply_factors(read_rope(config, sizes), config)
    norm = NormStyle(config.number("rms_norm_eps", 1e-6))
    bias = config.flag("attention_bias", False)
    attention = AttentionStyle(sizes.head_dim**-0.5, rope, window, bias=bias, output_bias=bias)
    kind = config.choice("hidden_act", "silu", blocks.ACTIVATIONS)
    mlp = MlpStyle(kind, bias=config.flag("mlp_bias", False))
    page = Page(sizes=sizes)
    x = page.embed("model.embed_tokens.weight")
    for layer in range(sizes.layers):
        x = blocks.pre_norm_layer(page, layer, x, norm, (attention, mlp))
    x = page.norm("norm", x, "model.norm.weight", norm)
    head = blocks.head_of(config.flag("tie_word_embeddings", False))
    return page.finish("llama", x, head, context=rope.context)


def build_mistral(config: Config) -> Blueprint:
    """Describes a Mistral 7B of any version; only the first has a window."""
    config = config.filled(MISTRAL_DEFAULTS)
    return build(config, config.optional_integer("sliding_window"))

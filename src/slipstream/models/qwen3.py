"""Qwen 3 (dense): a Llama that normalizes each query and key head."""

from slipstream.models import blocks, qwen2
from slipstream.models.blocks import AttentionStyle, Blueprint, MlpStyle, NormStyle, Page
from slipstream.models.config import Config, read_sizes
from slipstream.models.rope import apply_factors, read_rope


def build(config: Config) -> Blueprint:
    """Describes a Qwen 3."""
    config = config.filled({"head_dim": 128})
    sizes = read_sizes(config)
    rope = apply_factors(read_rope(config, sizes), config)
    norm = NormStyle(config.number("rms_norm_eps", 1e-6))
    bias = config.flag("attention_bias", False)
    mlp = MlpStyle(config.choice("hidden_act", "silu", blocks.ACTIVATIONS))
    page = Page(sizes=sizes)
    x = page.embed("model.embed_tokens.weight")
    for layer, window in enumerate(qwen2.windows(config, sizes)):
        attention = AttentionStyle(
            sizes.head_dim**-0.5, rope, window, bias=bias, output_bias=bias, head_norm=norm
        )
        x = blocks.pre_norm_layer(page, layer, x, norm, (attention, mlp))
    x = page.norm("norm", x, "model.norm.weight", norm)
    head = blocks.head_of(config.flag("tie_word_embeddings", False))
    return page.finish("qwen3", x, head, context=rope.context)

"""OLMo 2: norms after each block instead of before, and of whole query and key rows."""

from slipstream.graph import ops
from slipstream.models import blocks
from slipstream.models.blocks import AttentionStyle, Blueprint, MlpStyle, NormStyle, Page
from slipstream.models.config import Config, read_sizes
from slipstream.models.rope import apply_factors, read_rope


def build(config: Config) -> Blueprint:
    """Describes an OLMo 2: attention → norm → add, gated MLP → norm → add, in every layer."""
    sizes = read_sizes(config)
    rope = apply_factors(read_rope(config, sizes), config)
    norm = NormStyle(config.number("rms_norm_eps", 1e-5))
    bias = config.flag("attention_bias", False)
    attention = AttentionStyle(
        sizes.head_dim**-0.5, rope, bias=bias, output_bias=bias, row_norm=norm
    )
    mlp = MlpStyle(config.choice("hidden_act", "silu", blocks.ACTIVATIONS))
    page = Page(sizes=sizes)
    x = page.embed("model.embed_tokens.weight")
    for layer in range(sizes.layers):
        at, stored = f"layers.{layer}", f"model.layers.{layer}"
        h = blocks.attention(page, layer, x, f"{stored}.self_attn", attention)
        after = f"{stored}.post_attention_layernorm.weight"
        h = page.norm(f"{at}.attention.post_norm", h, after, norm)
        x = page.add(f"{at}.attention.add", ops.Add(), x, h)
        h = blocks.gated_mlp(page, layer, x, f"{stored}.mlp", mlp)
        after = f"{stored}.post_feedforward_layernorm.weight"
        h = page.norm(f"{at}.mlp.post_norm", h, after, norm)
        x = page.add(f"{at}.mlp.add", ops.Add(), x, h)
    x = page.norm("norm", x, "model.norm.weight", norm)
    head = blocks.head_of(config.flag("tie_word_embeddings", False))
    return page.finish("olmo2", x, head, context=rope.context)

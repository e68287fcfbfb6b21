"""Phi-3, Phi-3.5, Phi-4-mini: a Llama with fused matrices and rotary positions on part of a head.

The checkpoint holds queries, keys and values in one matrix, and gate and up in another. The graph
names the rows that it needs (``…qkv_proj.weight[0:3072]``), and `models.weights` cuts them out.
"""

from slipstream.models import blocks
from slipstream.models.blocks import AttentionStyle, Blueprint, MlpStyle, NormStyle, Page
from slipstream.models.config import Config, read_sizes
from slipstream.models.rope import apply_factors, read_rope


def build(config: Config) -> Blueprint:
    """Describes a Phi-3; of two sets of rotary factors, see `rope.read_rope`."""
    config = config.filled({"original_max_position_embeddings": 4096})
    sizes = read_sizes(config)
    rope = apply_factors(read_rope(config, sizes), config)
    norm = NormStyle(config.number("rms_norm_eps", 1e-5))
    window = config.optional_integer("sliding_window")
    attention = AttentionStyle(sizes.head_dim**-0.5, rope, window, fused=True)
    mlp = MlpStyle(config.choice("hidden_act", "silu", blocks.ACTIVATIONS), fused=True)
    page = Page(sizes=sizes)
    x = page.embed("model.embed_tokens.weight")
    for layer in range(sizes.layers):
        x = blocks.pre_norm_layer(page, layer, x, norm, (attention, mlp))
    x = page.norm("norm", x, "model.norm.weight", norm)
    head = blocks.head_of(config.flag("tie_word_embeddings", False))
    return page.finish("phi3", x, head, context=rope.context)

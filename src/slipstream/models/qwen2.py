"""Qwen 2 and 2.5: a Llama with biased queries, keys and values, and perhaps some windows."""

from slipstream.models import blocks
from slipstream.models.blocks import AttentionStyle, Blueprint, MlpStyle, NormStyle, Page
from slipstream.models.config import Config, Sizes, read_sizes
from slipstream.models.rope import apply_factors, read_rope


def build(config: Config) -> Blueprint:
    """Describes a Qwen 2."""
    sizes = read_sizes(config)
    rope = apply_factors(read_rope(config, sizes), config)
    norm = NormStyle(config.number("rms_norm_eps", 1e-6))
    mlp = MlpStyle(config.choice("hidden_act", "silu", blocks.ACTIVATIONS))
    page = Page(sizes=sizes)
    x = page.embed("model.embed_tokens.weight")
    for layer, window in enumerate(windows(config, sizes)):
        attention = AttentionStyle(sizes.head_dim**-0.5, rope, window, bias=True)
        x = blocks.pre_norm_layer(page, layer, x, norm, (attention, mlp))
    x = page.norm("norm", x, "model.norm.weight", norm)
    head = blocks.head_of(config.flag("tie_word_embeddings", False))
    return page.finish("qwen2", x, head, context=rope.context)


def windows(config: Config, sizes: Sizes) -> list[int | None]:
    """The window of each layer: where the model uses them at all, from "max_window_layers" on."""
    window = None
    if config.flag("use_sliding_window", False):
        window = config.filled({"sliding_window": 4096}).optional_integer("sliding_window")
    first = config.integer("max_window_layers", 28, least=0)
    sliding = [layer >= first for layer in range(sizes.layers)]
    return blocks.layer_windows(config, sizes, window, sliding)

"""SmolLM 3: a Llama in which every fourth layer knows no positions (NoPE)."""

from slipstream.models import blocks
from slipstream.models.blocks import AttentionStyle, Blueprint, MlpStyle, NormStyle, Page
from slipstream.models.config import Config, Sizes, read_sizes
from slipstream.models.rope import apply_factors, read_rope


def build(config: Config) -> Blueprint:
    """Describes a SmolLM 3."""
    sizes = read_sizes(config)
    rope = apply_factors(read_rope(config, sizes, default_theta=2_000_000.0), config)
    norm = NormStyle(config.number("rms_norm_eps", 1e-6))
    bias = config.flag("attention_bias", False)
    kind = config.choice("hidden_act", "silu", blocks.ACTIVATIONS)
    mlp = MlpStyle(kind, bias=config.flag("mlp_bias", False))
    turns = turning_layers(config, sizes)
    page = Page(sizes=sizes)
    x = page.embed("model.embed_tokens.weight")
    for layer, window in enumerate(windows(config, sizes, turns)):
        attention = AttentionStyle(
            sizes.head_dim**-0.5,
            rope if turns[layer] else None,
            window,
            bias=bias,
            output_bias=bias,
        )
        x = blocks.pre_norm_layer(page, layer, x, norm, (attention, mlp))
    x = page.norm("norm", x, "model.norm.weight", norm)
    head = blocks.head_of(config.flag("tie_word_embeddings", True))
    return page.finish("smollm3", x, head, context=rope.context)


def turning_layers(config: Config, sizes: Sizes) -> tuple[bool, ...]:
    """Which layers have rotary positions; the field "no_rope_layers" marks those with a 1."""
    if config.has("no_rope_layers"):
        return config.choices("no_rope_layers", sizes.layers, {1: True, 0: False})
    interval = config.integer("no_rope_layer_interval", 4)
    return tuple((layer + 1) % interval != 0 for layer in range(sizes.layers))


def windows(config: Config, sizes: Sizes, turns: tuple[bool, ...]) -> list[int | None]:
    """The window of each layer: where the model uses them, in layers without positions."""
    window = None
    if config.flag("use_sliding_window", False):
        window = config.optional_integer("sliding_window")
    return blocks.layer_windows(config, sizes, window, [not turn for turn in turns])

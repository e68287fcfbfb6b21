"""Gemma 3, the text model: Gemma 2 with query and key norms, and two rotary bases.

One is for layers that see all, the other for layers with windows.
The multimodal checkpoints hold it too, under "text_config" and longer names; images are not served.
"""

from slipstream.models import blocks
from slipstream.models.blocks import AttentionStyle, Blueprint, MlpStyle, NormStyle, Page
from slipstream.models.config import Config, Sizes, read_sizes
from slipstream.models.gemma2 import embedding_scale, sandwich_layer
from slipstream.models.rope import Rope, read_rope

# Multimodal configs leave out whatever equals these.
DEFAULTS = {
    "vocab_size": 262_208,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 131_072,
    "sliding_window": 4096,
}
SPELLINGS = (("model.", "model.language_model."), ("", "language_model."))


def build(config: Config) -> Blueprint:
    """Describes a Gemma 3."""
    config = config.filled(DEFAULTS)
    config.refuse("use_bidirectional_attention", False)
    config.refuse("attn_logit_softcapping")
    sizes = read_sizes(config)
    norm = NormStyle(config.number("rms_norm_eps", 1e-6), config.norm_offset(1.0))
    bias = config.flag("attention_bias", False)
    mlp = MlpStyle(config.choice("hidden_activation", "gelu_pytorch_tanh", blocks.ACTIVATIONS))
    full, local = ropes(config, sizes)
    page = Page(sizes=sizes)
    x = page.embed("model.embed_tokens.weight", embedding_scale(config, sizes))
    for layer, slides in enumerate(sliding_layers(config, sizes)):
        attention = AttentionStyle(
            config.number("query_pre_attn_scalar", 256.0) ** -0.5,
            local if slides else full,
            config.integer("sliding_window") if slides else None,
            bias=bias,
            output_bias=bias,
            head_norm=norm,
        )
        x = sandwich_layer(page, layer, x, norm, (attention, mlp))
    x = page.norm("norm", x, "model.norm.weight", norm)
    head = blocks.head_of(config.flag("tie_word_embeddings", True))
    cap = config.optional_number("final_logit_softcapping")
    return page.finish("gemma3", x, head, context=full.context, cap=cap)


def build_multimodal(config: Config) -> Blueprint:
    """Describes the text model inside a multimodal Gemma 3."""
    inherited = ("dtype", "torch_dtype", "tie_word_embeddings")
    outer = {name: config.values[name] for name in inherited if name in config.values}
    text = build(config.section("text_config").filled(outer))
    return Blueprint(text.graph, text.shapes, SPELLINGS)


def sliding_layers(config: Config, sizes: Sizes) -> tuple[bool, ...]:
    """Which layers have windows: all but every sixth, unless the config says otherwise."""
    if config.has("layer_types"):
        kinds = {"sliding_attention": True, "full_attention": False}
        return config.choices("layer_types", sizes.layers, kinds)
    pattern = config.integer("sliding_window_pattern", 6)
    return tuple((layer + 1) % pattern != 0 for layer in range(sizes.layers))


def ropes(config: Config, sizes: Sizes) -> tuple[Rope, Rope]:
    """(of layers that see all, of layers with windows); only the former are ever scaled."""
    full = read_rope(config, sizes, default_theta=1_000_000.0, kind="full_attention")
    local_theta = config.number("rope_local_base_freq", 10_000.0)
    local_config = Config({**config.values, "rope_theta": local_theta, "rope_scaling": None})
    return full, read_rope(local_config, sizes, kind="sliding_attention")

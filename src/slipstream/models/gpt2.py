"""GPT-2: learned positions, layer norms, biases everywhere, and matrices stored [in, out].

The graph names them turned (``h.0.mlp.c_fc.weight.T``), and queries, keys and values as rows of
one turned matrix; `models.weights` does the turning. GGUF files hold them [out, in] already, and
say so by "slipstream_conv1d": false.
"""

from slipstream.errors import FileFormatError
from slipstream.graph import ops
from slipstream.models import blocks
from slipstream.models.blocks import Blueprint, Page
from slipstream.models.config import LARGEST_LAYERS, LARGEST_WIDTH, Config, Sizes

# The head's model says "transformer.h.0…"; the first published files begin with "h.0…".
SPELLINGS = (("transformer.", ""),)


def build(config: Config) -> Blueprint:
    """Describes a GPT-2."""
    config.refuse("add_cross_attention", False)
    sizes = read_sizes(config)
    writer = _Writer(
        Page(sizes=sizes),
        eps=config.number("layer_norm_epsilon", 1e-5),
        kind=config.choice("activation_function", "gelu_new", blocks.ACTIVATIONS),
        turned=".T" if config.flag("slipstream_conv1d", True) else "",
    )
    scale = sizes.head_dim**-0.5 if config.flag("scale_attn_weights", True) else 1.0
    falls = config.flag("scale_attn_by_inverse_layer_idx", False)
    page = writer.page
    x = page.embed("transformer.wte.weight")
    positions = page.weight("transformer.wpe.weight", sizes.context, sizes.width)
    x = page.add("positions", ops.PositionEmbed(positions), x)
    for layer in range(sizes.layers):
        x = writer.layer(layer, x, scale / (layer + 1) if falls else scale)
    x = writer.norm("norm", x, "transformer.ln_f")
    tied = config.flag("tie_word_embeddings", True)
    head = "transformer.wte.weight" if tied else "lm_head.weight"
    finished = page.finish("gpt2", x, head, context=sizes.context)
    return Blueprint(finished.graph, finished.shapes, SPELLINGS)


def read_sizes(config: Config) -> Sizes:
    """The sizes under GPT-2's own names."""
    width = config.integer("n_embd", most=LARGEST_WIDTH)
    heads = config.integer("n_head", most=LARGEST_WIDTH)
    if width % heads:
        raise FileFormatError(f"config: n_embd {width} is not divisible by {heads} heads")
    return Sizes(
        layers=config.integer("n_layer", most=LARGEST_LAYERS),
        width=width,
        mlp_width=config.integer("n_inner", 4 * width, most=4 * LARGEST_WIDTH),
        heads=heads,
        kv_heads=heads,
        head_dim=width // heads,
        vocabulary=config.integer("vocab_size"),
        context=config.integer("n_positions"),
    )


class _Writer:
    """Writes GPT-2's layers onto a page."""

    def __init__(self, page: Page, *, eps: float, kind: ops.ActivationKind, turned: str) -> None:
        self.page = page
        self.eps = eps
        self.kind = kind
        self.turned = turned

    def layer(self, layer: int, x: str, scale: float) -> str:
        """norm → attention → add, norm → MLP → add."""
        page, at, stored = self.page, f"layers.{layer}", f"transformer.h.{layer}"
        width, inner = page.sizes.width, page.sizes.mlp_width
        h = self.norm(f"{at}.attention.norm", x, f"{stored}.ln_1")
        h = self.attention(layer, h, f"{stored}.attn", scale)
        x = page.add(f"{at}.attention.add", ops.Add(), x, h)
        h = self.norm(f"{at}.mlp.norm", x, f"{stored}.ln_2")
        h = self.linear(f"{at}.mlp.up", h, f"{stored}.mlp.c_fc", (inner, width))
        h = page.add(f"{at}.mlp.activate", ops.Activate(self.kind), h)
        h = self.linear(f"{at}.mlp.down", h, f"{stored}.mlp.c_proj", (width, inner))
        return page.add(f"{at}.mlp.add", ops.Add(), x, h)

    def attention(self, layer: int, x: str, stored: str, scale: float) -> str:
        """Queries, keys and values are thirds of one matrix."""
        page, at, width = self.page, f"layers.{layer}.attention", self.page.sizes.width
        fused = f"{stored}.c_attn"
        qkv = []
        for i, part in enumerate(("query", "key", "value")):
            start, end = i * width, (i + 1) * width
            weight = blocks.rows_of(f"{fused}.weight{self.turned}", start, end)
            bias = blocks.rows_of(f"{fused}.bias", start, end)
            qkv.append(page.linear(f"{at}.{part}", x, weight, (width, width), bias=bias))
        sizes = page.sizes
        op = ops.Attention(layer, sizes.heads, sizes.kv_heads, sizes.head_dim, scale)
        mixed = page.add(at, op, *qkv)
        return self.linear(f"{at}.output", mixed, f"{stored}.c_proj", (width, width))

    def linear(self, name: str, x: str, stored: str, shape: tuple[int, int]) -> str:
        """A matrix [out, in] and its bias."""
        weight = f"{stored}.weight{self.turned}"
        return self.page.linear(name, x, weight, shape, bias=f"{stored}.bias")

    def norm(self, name: str, x: str, stored: str) -> str:
        """A layer norm, with its bias."""
        weight, bias = f"{stored}.weight", f"{stored}.bias"
        self.page.weight(weight, self.page.sizes.width)
        self.page.weight(bias, self.page.sizes.width)
        return self.page.add(name, ops.Norm("layer", weight, self.eps, bias), x)

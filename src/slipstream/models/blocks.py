"""The shared pieces of model pages: attention and MLP blocks, and the page they are written on.

A model page reads its config and writes its blocks in order; what a block leaves out, the page
adds. Promises readable node names (``layers.0.attention.query``), and the shape of each weight.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from slipstream.graph import ops
from slipstream.graph.graph import Builder, Graph
from slipstream.models.config import Config, Sizes
from slipstream.models.rope import Rope

ACTIVATIONS: dict[str, ops.ActivationKind] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}


@dataclass(frozen=True)
class Blueprint:
    """A model described: its graph, and the shape that each of its weights must have."""

    graph: Graph
    shapes: dict[str, tuple[int, ...]]
    spellings: tuple[tuple[str, str], ...] = ()  # other beginnings of the names; see `Weights`


@dataclass(frozen=True)
class NormStyle:
    """How an architecture normalizes."""

    eps: float
    offset: float = 0.0  # Gemma stores w - 1


@dataclass(frozen=True)
class AttentionStyle:
    """What differs between the attentions of architectures, and between layers of one."""

    scale: float
    rope: Rope | None
    window: int | None = None
    soft_cap: float | None = None
    bias: bool = False  # of queries, keys and values
    output_bias: bool = False
    fused: bool = False  # queries, keys and values are rows of one matrix, qkv_proj
    head_norm: NormStyle | None = None  # of each query and key head (Qwen3, Gemma 3)
    row_norm: NormStyle | None = None  # of whole query and key rows (OLMo 2)


@dataclass(frozen=True)
class MlpStyle:
    """What differs between gated MLPs."""

    kind: ops.ActivationKind
    bias: bool = False
    fused: bool = False  # gate and up are rows of one matrix, gate_up_proj


@dataclass
class Page(Builder):
    """A graph under construction that also notes each weight's shape."""

    sizes: Sizes = field(kw_only=True)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def weight(self, name: str, *shape: int) -> str:
        """Notes the shape of a weight; returns its name."""
        self.shapes[name] = shape
        return name

    def embed(self, weight: str, scale: float = 1.0) -> str:
        """Token ids to rows."""
        name = self.weight(weight, self.sizes.vocabulary, self.sizes.width)
        return self.add("embed", ops.Embed(name, scale), "ids")

    def norm(self, name: str, x: str, weight: str, style: NormStyle) -> str:
        """An RMS norm of whole rows of the model's width."""
        self.weight(weight, self.sizes.width)
        return self.add(name, ops.Norm("rms", weight, style.eps, weight_offset=style.offset), x)

    def linear(
        self, name: str, x: str, weight: str, shape: tuple[int, int], *, bias: str | None = None
    ) -> str:
        """One matrix [out, in], and perhaps its bias."""
        self.weight(weight, *shape)
        if bias is not None:
            self.weight(bias, shape[0])
        return self.add(name, ops.Linear((weight,), (bias,)), x)

    def finish(
        self, architecture: str, x: str, head: str, *, context: int, cap: float | None = None
    ) -> Blueprint:
        """Selects rows, multiplies by the head, and closes the graph."""
        sizes = self.sizes
        rows = self.add("select", ops.Select(), x)
        logits = self.linear("head", rows, head, (sizes.vocabulary, sizes.width))
        if cap is not None:
            self.add("head.cap", ops.SoftCap(cap), logits)
        graph = Graph(architecture, tuple(self.nodes), sizes.width, sizes.vocabulary, context)
        graph.check()
        return Blueprint(graph, self.shapes)


def attention(page: Page, layer: int, x: str, prefix: str, style: AttentionStyle) -> str:
    """Queries, keys, values → attention → output, with weights ``{prefix}.q_proj.weight`` …"""
    sizes, at = page.sizes.of_layer(layer), f"layers.{layer}.attention"
    heads, kv_heads, head_dim = sizes.heads, sizes.kv_heads, sizes.head_dim
    query_part = _Part(f"{at}.query", f"{prefix}.q", heads, 0)
    key_part = _Part(f"{at}.key", f"{prefix}.k", kv_heads, heads)
    value_part = _Part(f"{at}.value", f"{prefix}.v", kv_heads, heads + kv_heads)
    query, key, value = (
        _projected(page, x, part, prefix, style) for part in (query_part, key_part, value_part)
    )
    query = _placed(page, query, query_part, style)
    key = _placed(page, key, key_part, style)
    op = ops.Attention(layer, heads, kv_heads, head_dim, style.scale, style.window, style.soft_cap)
    mixed = page.add(at, op, query, key, value)
    bias = f"{prefix}.o_proj.bias" if style.output_bias else None
    shape = (sizes.width, heads * head_dim)
    return page.linear(f"{at}.output", mixed, f"{prefix}.o_proj.weight", shape, bias=bias)


def gated_mlp(page: Page, layer: int, x: str, prefix: str, style: MlpStyle) -> str:
    """down(activation(gate) · up), with weights ``{prefix}.gate_proj.weight`` …"""
    sizes, at = page.sizes.of_layer(layer), f"layers.{layer}.mlp"
    width, mlp_width = sizes.width, sizes.mlp_width

    def bias_of(part: str) -> str | None:
        return f"{prefix}.{part}_proj.bias" if style.bias else None

    gate_weight, up_weight = f"{prefix}.gate_proj.weight", f"{prefix}.up_proj.weight"
    if style.fused:
        both = f"{prefix}.gate_up_proj.weight"
        gate_weight = rows_of(both, 0, mlp_width)
        up_weight = rows_of(both, mlp_width, 2 * mlp_width)
    gate = page.linear(f"{at}.gate", x, gate_weight, (mlp_width, width), bias=bias_of("gate"))
    up = page.linear(f"{at}.up", x, up_weight, (mlp_width, width), bias=bias_of("up"))
    inner = page.add(f"{at}.gated", ops.Gate(style.kind), gate, up)
    down_weight = f"{prefix}.down_proj.weight"
    return page.linear(f"{at}.down", inner, down_weight, (width, mlp_width), bias=bias_of("down"))


def pre_norm_layer(
    page: Page, layer: int, x: str, norm: NormStyle, styles: tuple[AttentionStyle, MlpStyle]
) -> str:
    """Llama's layer, and that of most: norm → attention → add, norm → gated MLP → add."""
    at, stored = f"layers.{layer}", f"model.layers.{layer}"
    attention_style, mlp_style = styles
    h = page.norm(f"{at}.attention.norm", x, f"{stored}.input_layernorm.weight", norm)
    h = attention(page, layer, h, f"{stored}.self_attn", attention_style)
    x = page.add(f"{at}.attention.add", ops.Add(), x, h)
    h = page.norm(f"{at}.mlp.norm", x, f"{stored}.post_attention_layernorm.weight", norm)
    h = gated_mlp(page, layer, h, f"{stored}.mlp", mlp_style)
    return page.add(f"{at}.mlp.add", ops.Add(), x, h)


def layer_windows(
    config: Config, sizes: Sizes, window: int | None, sliding: Sequence[bool]
) -> list[int | None]:
    """The window of each layer: by "layer_types" where the config lists them, else by `sliding`."""
    if config.has("layer_types"):
        kinds = {"sliding_attention": True, "full_attention": False}
        sliding = config.choices("layer_types", sizes.layers, kinds)
    return [window if slides else None for slides in sliding]


def rows_of(weight: str, start: int, end: int) -> str:
    """The name of some rows of a stored matrix; see `models.weights`."""
    return f"{weight}[{start}:{end}]"


def head_of(tied: bool) -> str:
    """The head's weight: its own, or the embedding's."""
    return "model.embed_tokens.weight" if tied else "lm_head.weight"


@dataclass(frozen=True)
class _Part:
    """Queries, keys or values: names, how many heads, and how many a fused matrix holds before."""

    node: str  # layers.0.attention.query
    stored: str  # model.layers.0.self_attn.q
    heads: int
    heads_before: int


def _projected(page: Page, x: str, part: _Part, prefix: str, style: AttentionStyle) -> str:
    """From a matrix of its own, or from its rows of a fused one."""
    width, before = (n * page.sizes.head_dim for n in (part.heads, part.heads_before))
    weight = f"{part.stored}_proj.weight"
    if style.fused:
        weight = rows_of(f"{prefix}.qkv_proj.weight", before, before + width)
    bias = f"{part.stored}_proj.bias" if style.bias else None
    return page.linear(part.node, x, weight, (width, page.sizes.width), bias=bias)


def _placed(page: Page, x: str, part: _Part, style: AttentionStyle) -> str:
    """Normalized if the style says so, and turned to its positions."""
    head_dim, heads = page.sizes.head_dim, part.heads
    norm, pieces = (style.head_norm, heads) if style.head_norm else (style.row_norm, 1)
    if norm is not None:
        weight = page.weight(f"{part.stored}_norm.weight", heads * head_dim // pieces)
        op = ops.Norm("rms", weight, norm.eps, weight_offset=norm.offset, heads=pieces)
        x = page.add(f"{part.node}_norm", op, x)
    if style.rope is not None:
        frequencies, factor = style.rope.frequencies, style.rope.attention_factor
        x = page.add(f"{part.node}_rotary", ops.Rotary(heads, head_dim, frequencies, factor), x)
    return x

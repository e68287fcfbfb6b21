"""The menu of operations: everything that a model may be made of.

An operation is a frozen record of its attributes. It knows neither arrays nor devices; backends
give it meaning, `cost` gives it bytes and operations. Shapes below: R rows (tokens of the running
batch), W hidden width, H query heads, K key/value heads, D head dimension, V vocabulary.

Weights are named, never held: a name is a key of the checkpoint's tensors, spelled as Hugging Face
spells it (``model.layers.0.self_attn.q_proj.weight``).
"""

from dataclasses import dataclass
from typing import Literal

ActivationKind = Literal["silu", "gelu", "gelu_tanh", "relu"]


@dataclass(frozen=True)
class Activations:
    """How a linear's input is stored while it is multiplied.

    ``bits == 32``: float32, untouched. ``bits == 16``: rounded to bfloat16 (half to even), to meet
    weights of bfloat16. ``bits == 8``: rounded to int8 (round half to even) with one
    float32 scale, max|x| / 127, per `group` consecutive inputs of each row (None: one per row).
    With a fixed `scale` (static activations) that one stands for all rows, and what lies beyond
    127 · scale is clipped; there is no group then.
    """

    bits: Literal[8, 16, 32] = 32
    group: int | None = None
    scale: float | None = None


@dataclass(frozen=True)
class Embed:
    """token ids [R] → [R, W]: row `id` of `weight` [V, W], times `scale` (Gemma: sqrt(W))."""

    weight: str
    scale: float = 1.0


@dataclass(frozen=True)
class PositionEmbed:
    """[R, W] → [R, W]: adds row `position + offset` of `weight` (GPT-2's learned positions)."""

    weight: str
    offset: int = 0


@dataclass(frozen=True)
class Norm:
    """[R, W] → [R, W], in float32.

    ``rms``: x / sqrt(mean(x²) + eps) · (w + weight_offset). ``layer``: also centred, plus `bias`.
    `heads`: the row is normalised in that many equal pieces, each with the same weight of length
    W / heads (Qwen3's and Gemma 3's norms of queries and keys).
    """

    kind: Literal["rms", "layer"]
    weight: str
    eps: float
    bias: str | None = None
    weight_offset: float = 0.0
    heads: int = 1


@dataclass(frozen=True)
class Linear:
    """[R, in] → one [R, out_i] for each weight i: x · Wᵢᵀ + biasᵢ.

    More than one weight means a fused linear (QKV, gate and up): the input is rounded once and
    all products run together. Each weight may have its own format.
    """

    weights: tuple[str, ...]
    biases: tuple[str | None, ...]
    activations: Activations = Activations()


@dataclass(frozen=True)
class Rotary:
    """[R, heads·D] → same: rotary embedding of the first `2·len(frequencies)` of each head.

    Half-split pairs, as Hugging Face: dimension i turns with i + n, n = len(frequencies), by the
    angle position · frequencies[i]; sine and cosine are multiplied by `attention_factor` (YaRN,
    LongRoPE). Scaling schemes are resolved into `frequencies` when the graph is built.
    """

    heads: int
    head_dim: int
    frequencies: tuple[float, ...]
    attention_factor: float = 1.0


@dataclass(frozen=True)
class Attention:
    """queries [R, H·D], keys [R, K·D], values [R, K·D] → [R, H·D]; causal.

    Writes keys and values into cache `layer`, then attends to every position of the row's own
    sequence up to and including its own; with `window` w only to the last w of them (position p
    sees p-w+1 … p). Scores are (q·k)·scale, then cap·tanh(score / cap) when `soft_cap` is set.
    """

    layer: int
    heads: int
    kv_heads: int
    head_dim: int
    scale: float
    window: int | None = None
    soft_cap: float | None = None


@dataclass(frozen=True)
class Activate:
    """[R, W] → [R, W], by element. ``gelu`` is exact (erf), ``gelu_tanh`` its approximation."""

    kind: ActivationKind


@dataclass(frozen=True)
class Gate:
    """gate [R, W], up [R, W] → activation(gate) · up."""

    kind: ActivationKind


@dataclass(frozen=True)
class Add:
    """[R, W] + [R, W]."""


@dataclass(frozen=True)
class Scale:
    """[R, W] · factor."""

    factor: float


@dataclass(frozen=True)
class Shift:
    """[R, W] + a vector `weight` [W]: keys less their channels' means, before they are rounded."""

    weight: str


@dataclass(frozen=True)
class SoftCap:
    """cap · tanh(x / cap) (Gemma 2's final logits)."""

    cap: float


@dataclass(frozen=True)
class Select:
    """[R, W] → [L, W]: the rows whose logits were asked for (`Batch.logit_rows`)."""


@dataclass(frozen=True)
class GatedLinear:
    """Fused by a pass: activation(x · Wgᵀ) · (x · Wuᵀ), [R, in] → [R, out]."""

    gate: str
    up: str
    kind: ActivationKind
    activations: Activations = Activations()


@dataclass(frozen=True)
class AddNorm:
    """Fused by a pass: residual [R, W], delta [R, W] → (their sum, the norm of their sum)."""

    norm: Norm


Op = (
    Embed
    | PositionEmbed
    | Norm
    | Linear
    | Rotary
    | Attention
    | Activate
    | Gate
    | Add
    | Scale
    | Shift
    | SoftCap
    | Select
    | GatedLinear
    | AddNorm
)

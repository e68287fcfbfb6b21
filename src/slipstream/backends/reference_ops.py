"""What each operation means: one small function per record of `graph.ops`, on plain arrays.

`backends.reference` calls them in the order of the graph. They are written over the array API, so
numpy runs them anywhere, and torch makes them differentiable and puts them on a GPU. Every other
backend is tested against these. Legend: R rows, W width, H heads, D head dimension.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.special
from array_api_compat import array_namespace, is_numpy_array
from numpy.typing import NDArray

from slipstream.formats.kv import to_bfloat16
from slipstream.graph import ops

Array = Any  # numpy.ndarray or torch.Tensor


def embed(ids: Array, table: Array, scale: float) -> Array:
    """ids [R] → [R, W]: rows of `table` [V, W], scaled."""
    rows = table[ids]
    return rows if scale == 1.0 else rows * scale


def position_embed(x: Array, positions: Array, table: Array, offset: int) -> Array:
    """[R, W] → [R, W]: adds row `position + offset` of `table`."""
    return x + table[positions + offset]


def norm(x: Array, op: ops.Norm, weight: Array, bias: Array | None) -> Array:
    """[R, W] → [R, W]: each of `op.heads` equal pieces of a row, brought to unit size."""
    xp = array_namespace(x)
    pieces = xp.reshape(x, (x.shape[0], op.heads, -1))
    if op.kind == "layer":
        pieces = pieces - xp.mean(pieces, axis=-1, keepdims=True)
    size = xp.sqrt(xp.mean(pieces * pieces, axis=-1, keepdims=True) + op.eps)
    result = pieces / size * (weight + op.weight_offset)
    if bias is not None:
        result = result + bias
    return xp.reshape(result, x.shape)


def add_norm(
    residual: Array, delta: Array, op: ops.Norm, weight: Array, bias: Array | None
) -> tuple[Array, Array]:
    """(residual + delta, norm of that)."""
    total = residual + delta
    return total, norm(total, op, weight, bias)


def round_activations(x: Array, activations: ops.Activations) -> Array:
    """[R, I] → the same as int8 codes would give it back: rint(x · 127/max) · max/127 per group.

    With a fixed scale s: clip(rint(x · 1/s), ±127) · s. Of 16 bits: the nearest bfloat16.

    The codes and scales are computed in float32, exactly as kernels compute them. The products
    that follow are then ordinary ones, in the dtype of the program. Kernels sum the integers
    exactly instead, which agrees up to the rounding of floating-point sums: within
    I · 2⁻²⁴ · Σ|x·w| in float32; with dtype="float64" only the kernels' own rounding is left.
    """
    if activations.bits == 32:
        return x
    xp = array_namespace(x)
    if activations.bits == 16:
        return xp.astype(to_bfloat16(xp.astype(x, xp.float32)), x.dtype)
    rows, width = x.shape
    if activations.scale is not None:
        fixed = np.float32(activations.scale)
        steps = xp.astype(x, xp.float32) * float(np.float32(1) / fixed)
        return xp.astype(xp.clip(xp.round(steps), -127.0, 127.0), x.dtype) * float(fixed)
    groups = xp.reshape(xp.astype(x, xp.float32), (rows, -1, activations.group or width))
    largest = xp.max(xp.abs(groups), axis=-1, keepdims=True)
    safe = xp.where(largest > 0, largest, xp.ones_like(largest))
    inverse = xp.where(largest > 0, 127.0 / safe, xp.zeros_like(largest))
    codes = xp.astype(xp.round(groups * inverse), x.dtype)
    scales = xp.astype(largest / 127.0, x.dtype)
    return xp.reshape(codes * scales, (rows, width))


def linear(
    x: Array, weights: Sequence[Array], biases: Sequence[Array | None], activations: ops.Activations
) -> tuple[Array, ...]:
    """[R, I] → one [R, O_i] for each weight [O_i, I]: x · Wᵀ + bias; the input is rounded once."""
    rounded = round_activations(x, activations)
    products = [rounded @ weight.T for weight in weights]
    return tuple(
        product if bias is None else product + bias
        for product, bias in zip(products, biases, strict=True)
    )


def gated_halves(
    x: Array, gate_weight: Array, up_weight: Array, op: ops.GatedLinear
) -> tuple[Array, ...]:
    """[R, I] → two [R, O]: x · Wgᵀ and x · Wuᵀ, which `gate` combines."""
    return linear(x, (gate_weight, up_weight), (None, None), op.activations)


def activate(x: Array, kind: ops.ActivationKind) -> Array:
    """Element by element; see `ops.Activate`."""
    xp = array_namespace(x)
    match kind:
        case "silu":
            small = xp.exp(-xp.abs(x))  # never overflows
            return x * xp.where(x >= 0, xp.ones_like(x), small) / (1.0 + small)
        case "gelu":
            erf = scipy.special.erf if is_numpy_array(x) else xp.erf
            return 0.5 * x * (1.0 + erf(x * math.sqrt(0.5)))
        case "gelu_tanh":
            return 0.5 * x * (1.0 + xp.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x * x * x)))
        case "relu":
            return xp.where(x > 0, x, xp.zeros_like(x))


def gate(gate_rows: Array, up_rows: Array, kind: ops.ActivationKind) -> Array:
    """activation(gate) · up."""
    return activate(gate_rows, kind) * up_rows


def soft_cap(x: Array, cap: float) -> Array:
    """cap · tanh(x / cap): nearly x when small, never beyond ±cap."""
    return cap * array_namespace(x).tanh(x / cap)


def rotary_angles(
    positions: NDArray[np.int32], op: ops.Rotary
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(cosines, sines), each [R, 1, n], of position · frequency, times the attention factor.

    In float64, so that position 100,000 turns by the angle that the frequency says.
    """
    angles = positions[:, None, None].astype(np.float64) * np.asarray(op.frequencies)
    return np.cos(angles) * op.attention_factor, np.sin(angles) * op.attention_factor


def rotary(x: Array, cosines: Array, sines: Array, op: ops.Rotary) -> Array:
    """[R, heads·D] → same: dimension i of each head turns with i + n; the rest stays."""
    xp = array_namespace(x)
    heads = xp.reshape(x, (x.shape[0], op.heads, op.head_dim))
    n = len(op.frequencies)
    first, second, rest = heads[..., :n], heads[..., n : 2 * n], heads[..., 2 * n :]
    turned = [first * cosines - second * sines, second * cosines + first * sines, rest]
    return xp.reshape(xp.concat(turned, axis=-1), x.shape)


def attend(queries: Array, keys: Array, values: Array, visible: Array, op: ops.Attention) -> Array:
    """One sequence: queries [T, H·D], keys and values [N, K, D], visible bool [T, N] → [T, H·D].

    Queries of the H / K heads that share a key head stand one after another, so that each key
    head is one matrix product.
    """
    xp = array_namespace(queries)
    count, shared = queries.shape[0], op.heads // op.kv_heads
    shape = (count, op.kv_heads, shared, op.head_dim)
    q = xp.permute_dims(xp.reshape(queries, shape), (1, 2, 0, 3))  # [K, H/K, T, D]
    k = xp.permute_dims(keys, (1, 2, 0))[:, None, :, :]  # [K, 1, D, N]
    v = xp.permute_dims(values, (1, 0, 2))[:, None, :, :]  # [K, 1, N, D]
    scores = (q @ k) * op.scale  # [K, H/K, T, N]
    if op.soft_cap is not None:
        scores = soft_cap(scores, op.soft_cap)
    scores = xp.where(visible, scores, -math.inf)
    shares = xp.exp(scores - xp.max(scores, axis=-1, keepdims=True))
    shares = shares / xp.sum(shares, axis=-1, keepdims=True)
    return xp.reshape(xp.permute_dims(shares @ v, (2, 0, 1, 3)), queries.shape)

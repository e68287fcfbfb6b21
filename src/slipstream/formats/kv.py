"""How a page stores keys and values: sizes, and what a rounded one reads back as.

`graph.cost` and `engine.options` count bytes with it, `backends.reference` rounds with it; the
native kernels store the same numbers (csrc/kernels/kv_format.h). Every position and head is rounded
by itself, with a scale of its own, so that chunks and batches change nothing.

    int8  code · scale, codes -127 … 127, a bfloat16 scale per position and head; keys are rotated
    int4  code · scale + minimum, codes 0 … 15, both bfloat16; keys and values are rotated

Rotated: times a Hadamard matrix over the head, which spreads what sticks out (QuaRot,
arXiv:2404.00456). lab/2026-11-21-attention.md has what was measured and what was not kept.
"""

from typing import Any, Literal

import ml_dtypes
import numpy as np
from array_api_compat import array_namespace, is_numpy_array

KVFormat = Literal["float32", "bfloat16", "int8", "int4"]
KVType = Literal["float32", "bfloat16", "int8", "k8v4", "int4"]

# Of keys and of values: keys lose more when they are rounded.
KV_FORMATS: dict[KVType, tuple[KVFormat, KVFormat]] = {
    "float32": ("float32", "float32"),
    "bfloat16": ("bfloat16", "bfloat16"),
    "int8": ("int8", "int8"),
    "k8v4": ("int8", "int4"),
    "int4": ("int4", "int4"),
}
KV_WIDEST = 1024  # dimensions of a head that is stored as codes

Array = Any  # of any array library


def kv_position_bytes(kv: KVType, kv_heads: int, head_dim: int) -> int:
    """Bytes of the key and the value of one position in one layer, scales included."""
    return kv_heads * sum(_head_bytes(format, head_dim) for format in KV_FORMATS[kv])


def _head_bytes(format: KVFormat, head_dim: int) -> int:
    match format:
        case "float32":
            return 4 * head_dim
        case "bfloat16":
            return 2 * head_dim
        case "int8":
            return head_dim + 2
        case "int4":
            return -(-head_dim // 32) * 16 + 4


def key_read_back(keys: Array, kv: KVType) -> Array:
    """[…, head_dim] → the same as the page gives it back."""
    format = KV_FORMATS[kv][0]
    if format in ("int8", "int4"):
        return rotate(_read_back(rotate(keys), format))
    return _read_back(keys, format)


def value_read_back(values: Array, kv: KVType) -> Array:
    """[…, head_dim] → the same as the page gives it back."""
    format = KV_FORMATS[kv][1]
    if format == "int4":
        return rotate(_read_back(rotate(values), format))
    return _read_back(values, format)


def rotate(x: Array) -> Array:
    """Each run of the largest power of two that divides the width, times Hadamard's matrix / √run.

    Its own inverse. Sums in the order of the native kernels.
    """
    xp = array_namespace(x)
    width = x.shape[-1]
    run = width & -width
    step = 1
    while step < run:
        pairs = xp.reshape(x, (*x.shape[:-1], width // (2 * step), 2, step))
        first, second = pairs[..., 0, :], pairs[..., 1, :]
        x = xp.reshape(xp.stack([first + second, first - second], axis=-2), x.shape)
        step *= 2
    norm = np.float32(1) / np.sqrt(np.float32(run))
    return x * float(norm)


def _read_back(x: Array, format: KVFormat) -> Array:
    match format:
        case "float32":
            return x
        case "bfloat16":
            return to_bfloat16(x)
        case "int8":
            return _int8(x)
        case "int4":
            return _int4(x)


def _int8(x: Array) -> Array:
    xp = array_namespace(x)
    size = xp.max(xp.abs(x), axis=-1, keepdims=True)
    scale = to_bfloat16(size / 127.0)
    return xp.clip(xp.round(x / _divisor(scale)), -127.0, 127.0) * scale


def _int4(x: Array) -> Array:
    xp = array_namespace(x)
    low = to_bfloat16(xp.min(x, axis=-1, keepdims=True))
    width = xp.max(x, axis=-1, keepdims=True) - low
    scale = to_bfloat16(xp.where(width > 0, width, xp.zeros_like(width)) / 15.0)
    return xp.clip(xp.round((x - low) / _divisor(scale)), 0.0, 15.0) * scale + low


def _divisor(scale: Array) -> Array:
    xp = array_namespace(scale)
    return xp.where(scale > 0, scale, xp.ones_like(scale))


def to_bfloat16(x: Array) -> Array:
    """The nearest bfloat16, ties to even, held in the dtype of x."""
    xp = array_namespace(x)
    short = ml_dtypes.bfloat16 if is_numpy_array(x) else xp.bfloat16
    return xp.astype(xp.astype(x, short), x.dtype)

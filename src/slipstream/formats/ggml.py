"""GGML's block types read as our tensors, without loss: `to_tensor` and `dequantize_ggml`.

Every block type is integers times a scale, so each becomes an `AffineTensor` whose values are, bit
for bit, those of GGML (products of its scales and codes are exact in float32):

    =================  ====  =====  =========  =======  ==========================================
    type               bits  group  zero       scales   codes
    =================  ====  =====  =========  =======  ==========================================
    Q4_0               4     32     symmetric  float16  as stored
    Q4_1               4     32     minimum    float16  as stored
    Q5_0               8     32     symmetric  float16  q - 16
    Q5_1               8     32     minimum    float16  as stored
    Q8_0               8     32     symmetric  float16  as stored
    Q2_K               4     16     minimum    float32  as stored, d · sc and -(dmin · m)
    Q3_K               4     16     symmetric  float32  -4…3, d · sc
    Q4_K               4     32     minimum    float32  as stored, d · sc and -(dmin · m)
    Q5_K               8     32     minimum    float32  as stored, d · sc and -(dmin · m)
    Q6_K               8     16     symmetric  float32  q - 32, d · sc
    IQ4_NL             8     32     symmetric  float16  values of its table
    IQ4_XS             8     32     symmetric  float32  values of its table, d · sc
    MXFP4              8     32     symmetric  float32  values of its table (twice e2m1)
    TQ1_0, TQ2_0       4     256    symmetric  float16  -1, 0, 1 (and 2)
    F32 F16 BF16 F64   dense, and so are I8 I16 I32 I64
    =================  ====  =====  =========  =======  ==========================================
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from slipstream.errors import UnsupportedError
from slipstream.formats import ggml_k, ggml_legacy, ggml_table, ggml_ternary
from slipstream.formats.ggml_types import GGML_TYPES, GGMLType
from slipstream.formats.tensor import Affine, AffineTensor, DenseTensor, Tensor, Zero

__all__ = ["GGML_TYPES", "GGMLType", "dequantize_ggml", "is_supported", "to_tensor"]

Blocks = NDArray[np.uint8]  # [blocks, bytes of one]
# Reads blocks and writes packed codes [blocks, ·], scales [blocks, groups] and offsets (or None).
Decoder = Callable[[Blocks, NDArray, NDArray, NDArray | None], None]


@dataclass(frozen=True)
class _Layout:
    """How the blocks of one type lie in an affine tensor, and who decodes them."""

    format: Affine
    scale_dtype: type[np.floating]
    decode: Decoder


def _layout(
    bits: int, group: int, zero: Zero, scale_dtype: type[np.floating], decode: Decoder
) -> _Layout:
    return _Layout(Affine(4 if bits == 4 else 8, group, zero), scale_dtype, decode)


_AFFINE: dict[str, _Layout] = {
    "Q4_0": _layout(4, 32, "symmetric", np.float16, ggml_legacy.q4_0),
    "Q4_1": _layout(4, 32, "minimum", np.float16, ggml_legacy.q4_1),
    "Q5_0": _layout(8, 32, "symmetric", np.float16, ggml_legacy.q5_0),
    "Q5_1": _layout(8, 32, "minimum", np.float16, ggml_legacy.q5_1),
    "Q8_0": _layout(8, 32, "symmetric", np.float16, ggml_legacy.q8_0),
    "Q2_K": _layout(4, 16, "minimum", np.float32, ggml_k.q2_k),
    "Q3_K": _layout(4, 16, "symmetric", np.float32, ggml_k.q3_k),
    "Q4_K": _layout(4, 32, "minimum", np.float32, ggml_k.q4_k),
    "Q5_K": _layout(8, 32, "minimum", np.float32, ggml_k.q5_k),
    "Q6_K": _layout(8, 16, "symmetric", np.float32, ggml_k.q6_k),
    "IQ4_NL": _layout(8, 32, "symmetric", np.float16, ggml_table.iq4_nl),
    "IQ4_XS": _layout(8, 32, "symmetric", np.float32, ggml_table.iq4_xs),
    "MXFP4": _layout(8, 32, "symmetric", np.float32, ggml_table.mxfp4),
    "TQ1_0": _layout(4, 256, "symmetric", np.float16, ggml_ternary.tq1_0),
    "TQ2_0": _layout(4, 256, "symmetric", np.float16, ggml_ternary.tq2_0),
}

_DENSE: dict[str, type] = {
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F64": np.float64,
    "I8": np.int8,
    "I16": np.int16,
    "I32": np.int32,
    "I64": np.int64,
}

_PIECE_BYTES = 1 << 17  # raw bytes decoded at a time: the temporaries stay in the caches


def is_supported(type: int) -> bool:
    """Whether tensors of this GGML type can be read."""
    known = GGML_TYPES.get(type)
    return known is not None and (known.name in _AFFINE or known.name in _DENSE)


def to_tensor(raw: NDArray[np.uint8], type: int, shape: tuple[int, ...]) -> Tensor:
    """The tensor of `shape` (rows first, inputs last) stored in `raw`, its values unchanged.

    Dense types are views of `raw`. Block types become affine matrices [O, I]; of any other number
    of dimensions they become dense float32. Refuses types that are not in the table above
    (UnsupportedError), and a `raw` that is not as long as the shape says (ValueError).
    """
    kind = _type_of(type)
    values = math.prod(shape)
    if (shape and shape[-1] % kind.block) or raw.nbytes * kind.block != values * kind.bytes:
        raise ValueError(f"{raw.nbytes} bytes of {kind.name} do not hold a tensor of shape {shape}")
    raw = np.ascontiguousarray(raw).reshape(-1)
    if kind.name in _DENSE:
        return DenseTensor(raw.view(_DENSE[kind.name]).reshape(shape))
    if len(shape) == 2:
        return _to_affine(raw, kind, shape[0])
    return DenseTensor(_to_affine(raw, kind, 1).dequantize().reshape(shape))


def dequantize_ggml(raw: NDArray[np.uint8], type: int) -> NDArray[np.float32]:
    """uint8 [..., bytes of a row] → float32 [..., values of a row]."""
    kind = _type_of(type)
    if raw.shape[-1] % kind.bytes:
        raise ValueError(f"rows of {raw.shape[-1]} bytes are not whole blocks of {kind.name}")
    shape = (*raw.shape[:-1], raw.shape[-1] // kind.bytes * kind.block)
    return to_tensor(raw, type, shape).dequantize().reshape(shape)


def _type_of(type: int) -> GGMLType:
    known = GGML_TYPES.get(type)
    if known is None or not is_supported(type):
        name = f"type {type}" if known is None else known.name
        raise UnsupportedError(
            f"tensors of GGML's {name} are not supported: use a file in one of"
            f" {' '.join([*_DENSE, *_AFFINE])}"
        )
    return known


def _to_affine(raw: NDArray[np.uint8], kind: GGMLType, rows: int) -> AffineTensor:
    """Decodes whole blocks, a piece at a time, into one affine matrix of `rows` rows."""
    layout = _AFFINE[kind.name]
    blocks = raw.reshape(-1, kind.bytes)
    groups = kind.block // (layout.format.group or kind.block)
    width = kind.block * layout.format.bits // 8
    codes = np.empty((len(blocks), width), np.uint8 if layout.format.bits == 4 else np.int8)
    scales = np.empty((len(blocks), groups), layout.scale_dtype)
    offsets = np.empty_like(scales) if layout.format.zero == "minimum" else None
    step = _PIECE_BYTES // kind.bytes
    with np.errstate(invalid="ignore"):  # damaged scales may be infinite
        for start in range(0, len(blocks), step):
            piece = slice(start, start + step)
            some_offsets = None if offsets is None else offsets[piece]
            layout.decode(blocks[piece], codes[piece], scales[piece], some_offsets)
    return AffineTensor(
        layout.format,
        codes.reshape(rows, -1),
        scales.reshape(rows, -1),
        None if offsets is None else offsets.reshape(rows, -1),
    )

"""GGML's block types read as our tensors, as they are stored: `to_tensor` and `dequantize_ggml`.

Every block type is integers, or a codebook, times scales. Ours keep both as the file does, so their
values are, bit for bit, those of GGML (products of its scales and codes are exact in float32), and
kernels read no more bytes than the file has (Q2_K to Q5_K: a byte for each 6-bit scale):

    =================  ==============  =====  ==============================================
    type               codes           group  scales
    =================  ==============  =====  ==============================================
    Q4_0  Q4_1         int4            32     float16; Q4_1 a float16 minimum as well
    Q5_0  Q5_1         int5            32     float16; Q5_1 a float16 minimum as well
    Q8_0               int8            32     float16
    Q2_K  Q3_K         int2  int3      16     nested; Q2_K nested minimums as well
    Q4_K  Q5_K         int4  int5      32     nested, nested minimums as well
    Q6_K               int6            16     nested
    IQ4_NL  IQ4_XS     iq4_nl          32     float16; nested
    MXFP4              mxfp4           32     powers of two
    TQ1_0, TQ2_0       int2, zero 1    256    float16
    F32 F16 BF16 F64   dense, and so are I8 I16 I32 I64
    =================  ==============  =====  ==============================================
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from slipstream.errors import UnsupportedError
from slipstream.formats import ggml_k, ggml_legacy, ggml_table, ggml_ternary
from slipstream.formats.ggml_fields import Arrays, Bytes
from slipstream.formats.ggml_types import GGML_TYPES, GGMLType
from slipstream.formats.tensor import (
    Affine,
    AffineTensor,
    Codebook,
    CodebookTensor,
    DenseTensor,
    NestedTensor,
    Quantized,
    Tensor,
    Zero,
)

__all__ = ["GGML_TYPES", "GGMLType", "dequantize_ggml", "is_supported", "to_tensor"]

Decoder = Callable[[Bytes, Arrays], None]  # reads blocks, fills the arrays [blocks, ·] of a tensor


@dataclass(frozen=True)
class _Layout:
    """What the blocks of one type become, and who decodes them.

    arrays  for each field of the tensor its dtype, and its numbers for a block
    """

    format: Affine | Codebook
    arrays: dict[str, tuple[type, int]]
    decode: Decoder

    def tensor(self, arrays: Arrays) -> Quantized:
        """The record that these arrays make."""
        if isinstance(self.format, Codebook):
            return CodebookTensor(self.format, **arrays)
        if "supers" in arrays:
            return NestedTensor(self.format, **arrays)
        return AffineTensor(self.format, **arrays)


def _simple(bits: int, zero: Zero, decode: Decoder) -> _Layout:
    """One float16 for 32 values, or two."""
    arrays: dict[str, tuple[type, int]] = {"codes": _codes(bits, 32), "scales": (np.float16, 1)}
    if zero == "minimum":
        arrays["offsets"] = (np.float16, 1)
    return _Layout(_affine(bits, 32, zero), arrays, decode)


def _nested(bits: int, group: int, zero: Zero, decode: Decoder) -> _Layout:
    """An int8 for each group of a super-block of 256 values."""
    arrays: dict[str, tuple[type, int]] = {"codes": _codes(bits, 256)}
    for name in ("scales", "minimums") if zero == "minimum" else ("scales",):
        arrays[name] = (np.int8, 256 // group)
        arrays["supers" if name == "scales" else "minimum_supers"] = (np.float16, 1)
    return _Layout(_affine(bits, group, zero), arrays, decode)


def _ternary(decode: Decoder) -> _Layout:
    """Codes of -1, 0 and 1 (and 2): q - 1."""
    arrays: dict[str, tuple[type, int]] = {"codes": _codes(2, 256), "scales": (np.float16, 1)}
    arrays["offsets"] = (np.uint8, 1)
    return _Layout(_affine(2, 256, "zero_point"), arrays, decode)


def _codes(bits: int, block: int) -> tuple[type, int]:
    return (np.uint8, block // 2) if bits <= 4 else (np.int8, block)


def _affine(bits: int, group: int, zero: Zero) -> Affine:
    checked: dict[int, Affine] = {
        2: Affine(2, group, zero),
        3: Affine(3, group, zero),
        4: Affine(4, group, zero),
        5: Affine(5, group, zero),
        6: Affine(6, group, zero),
        8: Affine(8, group, zero),
    }
    return checked[bits]


_NIBBLES = {"codes": _codes(4, 32)}
_LAYOUTS: dict[str, _Layout] = {
    "Q4_0": _simple(4, "symmetric", ggml_legacy.q4_0),
    "Q4_1": _simple(4, "minimum", ggml_legacy.q4_1),
    "Q5_0": _simple(5, "symmetric", ggml_legacy.q5_0),
    "Q5_1": _simple(5, "minimum", ggml_legacy.q5_1),
    "Q8_0": _simple(8, "symmetric", ggml_legacy.q8_0),
    "Q2_K": _nested(2, 16, "minimum", ggml_k.q2_k),
    "Q3_K": _nested(3, 16, "symmetric", ggml_k.q3_k),
    "Q4_K": _nested(4, 32, "minimum", ggml_k.q4_k),
    "Q5_K": _nested(5, 32, "minimum", ggml_k.q5_k),
    "Q6_K": _nested(6, 16, "symmetric", ggml_k.q6_k),
    "IQ4_NL": _Layout(
        Codebook("iq4_nl", 32), {**_NIBBLES, "scales": (np.float16, 1)}, ggml_table.iq4_nl
    ),
    "IQ4_XS": _Layout(
        Codebook("iq4_nl", 32),
        {"codes": _codes(4, 256), "scales": (np.int8, 8), "supers": (np.float16, 1)},
        ggml_table.iq4_xs,
    ),
    "MXFP4": _Layout(
        Codebook("mxfp4", 32), {**_NIBBLES, "scales": (np.uint8, 1)}, ggml_table.mxfp4
    ),
    "TQ1_0": _ternary(ggml_ternary.tq1_0),
    "TQ2_0": _ternary(ggml_ternary.tq2_0),
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
    return known is not None and (known.name in _LAYOUTS or known.name in _DENSE)


def to_tensor(raw: NDArray[np.uint8], type: int, shape: tuple[int, ...]) -> Tensor:
    """The tensor of `shape` (rows first, inputs last) stored in `raw`, its values unchanged.

    Dense types are views of `raw`. Block types become quantized matrices [O, I]; of any other
    number of dimensions they become dense float32. Refuses types that are not in the table above
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
        return _to_quantized(raw, kind, shape[0])
    return DenseTensor(_to_quantized(raw, kind, 1).dequantize().reshape(shape))


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
            f" {' '.join([*_DENSE, *_LAYOUTS])}"
        )
    return known


def _to_quantized(raw: NDArray[np.uint8], kind: GGMLType, rows: int) -> Quantized:
    """Decodes whole blocks, a piece at a time, into one matrix of `rows` rows."""
    layout = _LAYOUTS[kind.name]
    blocks = raw.reshape(-1, kind.bytes)
    arrays: dict[str, NDArray] = {
        name: np.empty((len(blocks), count), dtype)
        for name, (dtype, count) in layout.arrays.items()
    }
    step = _PIECE_BYTES // kind.bytes
    for start in range(0, len(blocks), step):
        piece = slice(start, start + step)
        layout.decode(blocks[piece], {name: array[piece] for name, array in arrays.items()})
    return layout.tensor({name: array.reshape(rows, -1) for name, array in arrays.items()})

"""Affine integers: rounding a matrix to them.

Compression and tests call this; reading back is `AffineTensor.dequantize`.

Legend: O outputs (rows), I inputs (columns), G groups of one row, N = I / G inputs of one group.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from slipstream.formats.nibbles import pack_nibbles, pieces
from slipstream.formats.tensor import Affine, AffineTensor

ScaleType = Literal["float16", "float32"]


def quantize_affine(
    weight: NDArray[np.float32], format: Affine, scale_dtype: ScaleType = "float16"
) -> AffineTensor:
    """Rounds float32 [O, I] to the nearest codes, with the scale that just spans each group.

    The scale is rounded to `scale_dtype` before the codes are chosen, so they make up for it.
    Refuses (ValueError) what is not a finite matrix, and a group that does not divide I.
    """
    weight = np.asarray(weight, np.float32)
    groups = group_count(weight.shape, format)
    scales = np.empty((weight.shape[0], groups), scale_dtype)
    offsets = _empty_offsets(format, scales)
    codes = np.empty(weight.shape, np.uint8 if format.nibbles else np.int8)
    for rows in pieces(weight.shape):
        grouped = weight[rows].reshape(-1, groups, weight.shape[1] // groups)
        if not np.isfinite(grouped).all():
            raise ValueError("the matrix holds infinities or NaN, which integers cannot express")
        scales[rows], zero = _scales_and_zeros(grouped, format, scales.dtype)
        if offsets is not None:
            offsets[rows] = zero
        rounded = _round_codes(grouped, scales[rows], zero, format)
        codes[rows] = rounded.reshape(weight[rows].shape)
    packed = pack_nibbles(codes) if format.nibbles else codes
    return AffineTensor(format, packed, scales, offsets)


def group_count(shape: tuple[int, ...], format: Affine) -> int:
    """G, the groups in a row of a matrix [O, I]; ValueError where the format does not fit it."""
    if len(shape) != 2 or 0 in shape:
        raise ValueError(f"only a matrix can be rounded to affine integers, not shape {shape}")
    group = format.group or shape[1]
    if group % 16 or shape[1] % group:
        raise ValueError(
            f"groups of {group} do not fit rows of {shape[1]} inputs: choose a group that is a"
            " multiple of 16 and divides the row"
        )
    return shape[1] // group


def _empty_offsets(format: Affine, scales: NDArray) -> NDArray | None:
    """Room for the offsets that the format wants beside its scales [O, G]."""
    if format.zero == "symmetric":
        return None
    if format.zero == "minimum":
        return np.empty_like(scales)
    return np.empty(scales.shape, np.uint8 if format.nibbles else np.int8)


def _scales_and_zeros(
    grouped: NDArray[np.float32], format: Affine, scale_dtype: np.dtype
) -> tuple[NDArray, NDArray[np.float32]]:
    """Scales [O, G] in their type, and zeros [O, G]: codes for zero_point, values for minimum."""
    lowest, highest = format.code_range
    if format.zero == "symmetric":
        reach = np.float32(symmetric_reach(format))
        scale = _to_finite(np.abs(grouped).max(axis=-1) / reach, scale_dtype)
        return scale, np.full(scale.shape, format.code_of_zero, np.float32)
    least, most = grouped.min(axis=-1), grouped.max(axis=-1)
    if format.zero == "zero_point":  # zero itself must be expressible
        least, most = np.minimum(least, 0), np.maximum(most, 0)
    span = most / np.float32(highest - lowest) - least / np.float32(highest - lowest)
    scale = _to_finite(span, scale_dtype)
    wide = scale.astype(np.float32)
    if format.zero == "zero_point":
        steps = np.divide(least, wide, out=np.zeros_like(least), where=wide > 0)
        return scale, np.clip(np.rint(lowest - steps), lowest, highest)
    minimum = _to_finite(least - np.float32(lowest) * wide, scale_dtype)
    return scale, minimum.astype(np.float32)


def _round_codes(
    grouped: NDArray[np.float32], scale: NDArray, zero: NDArray[np.float32], format: Affine
) -> NDArray[np.float32]:
    """The nearest codes [O, G, N] of the values, as floats within the range of the format."""
    lowest, highest = format.code_range
    wide = scale.astype(np.float32)[..., None]
    by_minimum = format.zero == "minimum"
    values = grouped - zero[..., None] if by_minimum else grouped
    codes = np.divide(values, wide, out=np.zeros_like(grouped), where=wide > 0)
    if not by_minimum:
        codes += zero[..., None]
    return np.clip(np.rint(codes, out=codes), lowest, highest, out=codes)


def symmetric_reach(format: Affine) -> float:
    """Steps that the scale spans on each side of zero.

    4 bits reach from -8 to 7: spanning 7.5 on both sides errs least (as compressed-tensors does);
    8 bits leave out -128.
    """
    return 127.0 if format.bits == 8 else (1 << format.bits - 1) - 0.5


def _to_finite(values: NDArray[np.float32], dtype: np.dtype) -> NDArray:
    """Rounded to `dtype`, and never to infinity."""
    most = np.finfo(dtype).max
    return np.clip(values, -most, most).astype(dtype)

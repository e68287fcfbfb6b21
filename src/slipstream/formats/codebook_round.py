"""Rounding a matrix to a codebook: the nearest level, under the scale that errs least.

Compression and tests call `quantize_codebook`. A scale is rounded to its storage first, so that the
codes make up for it.

Legend: O outputs, I inputs, G groups of one row, N = I / G.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from slipstream.formats.affine import group_count
from slipstream.formats.affine_tensor import Affine
from slipstream.formats.codebook import Codebook, CodebookTensor
from slipstream.formats.nibbles import pack_nibbles, pieces
from slipstream.formats.scales import powers_of_two

F32 = NDArray[np.float32]

# Shares of the span that are tried, as a scale search; the first alone spans the group's absmax.
_SHARES = (1.0, 1.06, 0.96, 0.92, 0.88, 0.84, 0.79, 0.74)


def quantize_codebook(
    weight: F32, format: Codebook, search: bool = True, importance: F32 | None = None
) -> CodebookTensor:
    """Float32 [O, I] → codes, with float16 scales (MXFP4: powers of two).

    search      several scales a group, the one with the least squared error; else absmax spans it
    importance  float32 [I], optional: weights of the squared errors

    Refuses (ValueError) what is not a finite matrix, and a group that does not divide I.
    """
    weight = np.asarray(weight, np.float32)
    groups = group_count(weight.shape, Affine(8, format.group))
    dtype = np.uint8 if format.name == "mxfp4" else np.float16
    scales = np.empty((len(weight), groups), dtype)
    codes = np.empty((len(weight), weight.shape[1] // 2), np.uint8)
    weighting = None if importance is None else importance.reshape(groups, -1)
    for rows in pieces(weight.shape):
        grouped = weight[rows].reshape(-1, groups, weight.shape[1] // groups)
        if not np.isfinite(grouped).all():
            raise ValueError("the matrix holds infinities or NaN, which codes cannot express")
        scales[rows] = _best_scales(grouped, format, search, weighting)
        chosen = nearest_codes(grouped, widened(scales[rows]), format)
        codes[rows] = pack_nibbles(chosen.reshape(len(chosen), -1))
    return CodebookTensor(format, codes, scales)


def nearest_codes(grouped: F32, scales: F32, format: Codebook) -> NDArray[np.uint8]:
    """The codes whose values are nearest, uint8 of the shape of float32 [O, G, N]."""
    levels, order = np.unique(format.levels.astype(np.float32), return_index=True)
    between = (levels[1:] + levels[:-1]) / 2
    wide = scales[..., None]
    steps = np.divide(grouped, wide, out=np.zeros_like(grouped), where=wide != 0)
    return order.astype(np.uint8)[np.searchsorted(between, steps)]


def widened(scales: NDArray) -> F32:
    """Stored scales as float32."""
    return powers_of_two(scales) if scales.dtype == np.uint8 else scales.astype(np.float32)


def _best_scales(
    grouped: F32, format: Codebook, search: bool, weighting: NDArray | None
) -> NDArray:
    """Scales [O, G] in their storage: of the candidates the one that errs least, group by group."""
    candidates: Iterator[NDArray] = (
        _powers(grouped) if format.name == "mxfp4" else _halves(grouped, format)
    )
    best = next(candidates)
    if not search:
        return best
    least = _squared_error(grouped, best, format, weighting)
    for scales in candidates:
        error = _squared_error(grouped, scales, format, weighting)
        best = np.where(error < least, scales, best)
        least = np.minimum(error, least)
    return best


def _halves(grouped: F32, format: Codebook) -> Iterator[NDArray[np.float16]]:
    """Float16 scales; the sign puts the furthest value on the longer side of the levels."""
    furthest = np.take_along_axis(grouped, np.abs(grouped).argmax(axis=-1)[..., None], axis=-1)
    levels = format.levels
    longer = np.float32(levels[np.abs(levels.astype(np.int16)).argmax()])
    most = np.finfo(np.float16).max
    span = furthest[..., 0] / longer
    if format.name == "nf4":  # QLoRA's own scale is absmax, never negative
        span = np.abs(span)
    for share in _SHARES:
        yield np.clip(span * np.float32(share), -most, most).astype(np.float16)


def _powers(grouped: F32) -> Iterator[NDArray[np.uint8]]:
    """Exponents: OCP's own, floor(log2(absmax)) - 2 of e2m1, then the next ones up and down."""
    absmax = np.abs(grouped).max(axis=-1)
    _, exponent = np.frexp(absmax)  # absmax = m · 2^exponent, m in [0.5, 1)
    own = np.where(absmax > 0, exponent - 3 + 127, 0)
    for change in (0, 1, -1):
        yield np.clip(own + change, 0, 254).astype(np.uint8)


def _squared_error(
    grouped: F32, scales: NDArray, format: Codebook, weighting: NDArray | None
) -> F32:
    wide = widened(scales)
    codes = nearest_codes(grouped, wide, format)
    error = format.levels.astype(np.float32)[codes] * wide[..., None] - grouped
    error *= error
    if weighting is not None:
        error *= weighting
    return np.asarray(error.sum(axis=-1))

"""The grid that a group of weights is rounded to: its scale and zero, fitted to the weights.

Round-to-nearest and GPTQ share this. Scales are rounded to their storage type before any code is
chosen, so what is minimised is the error of the tensor as it will be read back.

Legend: O outputs, I inputs, G groups of a row, N = I / G.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from slipstream.compress.passes.spans import ends_of, squared_errors
from slipstream.formats.affine import ScaleType, group_count, symmetric_reach
from slipstream.formats.nibbles import pack_nibbles
from slipstream.formats.tensor import Affine, AffineTensor

Clip = Literal["minmax", "mse"]
F32 = NDArray[np.float32]

_PIECE = 1 << 18  # values fitted at a time: the search's temporaries stay in cache

# Shares of the full range that the search tries. Of 4 bits, SmolLM2's groups choose from all of
# them; below 0.6 almost none does. Symmetric 4 bits also look above 1: see `_signed_scales`.
_SHARES = np.array([1.0, 0.96, 0.92, 0.88, 0.84, 0.79, 0.74, 0.68, 0.62], np.float32)
_SIGNED_SHARES = np.array([1.12, 1.06, 1.0, 0.95, 0.9, 0.85, 0.8, 0.74, 0.67], np.float32)


@dataclass(frozen=True)
class Grid:
    """Where codes lie: value = (q - zero) · scale, or q · scale + zero where zero is a minimum."""

    format: Affine
    scale: NDArray  # [O, G] in the storage type
    zero: F32  # [O, G]: a code (8 or 0 if symmetric), or the minimum, already rounded for storage

    def codes_of(self, grouped: F32) -> F32:
        """Nearest codes of float32 [O, G, N], as floats within the range."""
        return to_codes(grouped, _wide(self.scale), self.zero[..., None], self.format)

    def tensor(self, codes: NDArray) -> AffineTensor:
        """Codes [O, I] with this grid, packed for storage."""
        if self.format.nibbles:
            packed: NDArray = pack_nibbles(codes)
        else:
            packed = codes.astype(np.int8)
        return AffineTensor(self.format, packed, self.scale, self._offsets())

    def _offsets(self) -> NDArray | None:
        if self.format.zero == "symmetric":
            return None
        if self.format.zero == "minimum":
            return self.zero.astype(self.scale.dtype)
        return self.zero.astype(np.uint8 if self.format.nibbles else np.int8)


def code_range(format: Affine) -> tuple[int, int]:
    """The least and the greatest code."""
    return format.code_range


def to_codes(x: F32, scale: F32, zero: F32, format: Affine) -> F32:
    """Nearest codes of `x` (arrays broadcast); a group whose scale is zero gets its zero code."""
    low, high = code_range(format)
    if format.zero == "minimum":
        codes = (x - zero) * inverse_of(scale)
    else:
        codes = x * inverse_of(scale)
        codes += zero
    np.rint(codes, out=codes)
    return np.clip(codes, low, high, out=codes)


def inverse_of(scale: F32) -> F32:
    """1 / scale, and 0 where the scale is."""
    return np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale != 0)


def from_codes(codes: F32, scale: F32, zero: F32, format: Affine) -> F32:
    """The values that codes stand for, rounded as `AffineTensor.dequantize` rounds them."""
    return codes * scale + zero if format.zero == "minimum" else (codes - zero) * scale


def fit_grid(
    weight: F32,
    format: Affine,
    clip: Clip = "mse",
    *,
    importance: NDArray[np.float32] | None = None,
    scale_dtype: ScaleType = "float16",
) -> Grid:
    """The grid for each group of float32 [O, I].

    clip        ``minmax`` spans the group exactly; ``mse`` searches the span that errs least
    importance  float32 [I]: weights of the squared errors (the diagonal of a Hessian); None: equal

    Refuses (ValueError) a group that does not divide I.
    """
    groups = group_count(weight.shape, format)
    grouped = weight.reshape(len(weight), groups, -1)
    weighting = None if importance is None else importance.reshape(groups, -1)
    scale = np.empty(grouped.shape[:2], scale_dtype)
    zero = np.empty(grouped.shape[:2], np.float32)
    for rows in _pieces(weight.shape):
        piece = _Groups.of(grouped[rows], weighting)
        if clip == "minmax":
            scale[rows], zero[rows] = _spanning(piece, format, np.float32(1), scale.dtype)
        else:
            scale[rows], zero[rows] = _searched(piece, format, scale.dtype)
    return Grid(format, scale, zero)


@dataclass(frozen=True)
class _Groups:
    """Some rows of a matrix and the ends of each group, float32 [O, G, N] and [O, G]."""

    values: F32
    least: F32
    most: F32
    weighting: NDArray | None  # [G, N]

    @classmethod
    def of(cls, values: F32, weighting: NDArray | None) -> "_Groups":
        least, most = ends_of(values)
        return cls(values, least, most, weighting)


def _searched(groups: _Groups, format: Affine, dtype: np.dtype) -> tuple[NDArray, F32]:
    """The best of several spans, group by group; of equal ones the first."""
    scales, zeros = _proposals(groups, format, dtype)
    count, width = len(scales), groups.values.shape[-1]
    errors = squared_errors(
        groups.values.reshape(-1, width),
        scales.reshape(count, -1).astype(np.float32),
        zeros.reshape(count, -1),
        groups.weighting,
        format,
    )
    best = errors.reshape(scales.shape).argmin(axis=0)[None]
    return np.take_along_axis(scales, best, 0)[0], np.take_along_axis(zeros, best, 0)[0]


def _proposals(groups: _Groups, format: Affine, dtype: np.dtype) -> tuple[NDArray, F32]:
    """Scales and zeros [C, O, G]; the first spans the group."""
    if format.zero == "symmetric" and format.nibbles:
        scale, zero = _spanning(groups, format, np.float32(1), dtype)
        signed = _signed_scales(groups, format, dtype)
        scales = np.concatenate([scale[None], signed])
        return scales, np.broadcast_to(zero, scales.shape)
    tried = [_spanning(groups, format, share, dtype) for share in _SHARES]
    return np.stack([scale for scale, _ in tried]), np.stack([zero for _, zero in tried])


def _signed_scales(groups: _Groups, format: Affine, dtype: np.dtype) -> NDArray:
    """4-bit codes reach from -8 to 7: the scale's sign puts the larger side on the longer arm."""
    longer = np.float32(format.code_range[0] - format.code_of_zero)
    furthest = np.where(groups.most > -groups.least, groups.most, groups.least)
    return to_storage(furthest * (_SIGNED_SHARES / longer)[:, None, None], dtype)


def _spanning(
    groups: _Groups, format: Affine, share: np.float32, dtype: np.dtype
) -> tuple[NDArray, F32]:
    """Scale and zero that span `share` of each group's range; with 1 as `quantize_affine` does."""
    low, high = code_range(format)
    least, most = groups.least, groups.most
    if format.zero == "symmetric":
        reach = np.float32(symmetric_reach(format))
        scale = to_storage(np.maximum(most, -least) * share / reach, dtype)
        return scale, np.full(scale.shape, format.code_of_zero, np.float32)
    if format.zero == "zero_point":  # zero itself must be expressible
        least, most = np.minimum(least, 0) * share, np.maximum(most, 0) * share
    else:
        trim = (most - least) * ((1 - share) / np.float32(2))
        least, most = least + trim, most - trim
    scale = to_storage((most - least) / np.float32(high - low), dtype)
    wide = scale.astype(np.float32)
    if format.zero == "zero_point":
        steps = np.divide(least, wide, out=np.zeros_like(least), where=wide > 0)
        return scale, np.clip(np.rint(low - steps), low, high)
    minimum = to_storage(least - np.float32(low) * wide, dtype)
    return scale, minimum.astype(np.float32)


def to_storage(values: F32, dtype: np.dtype) -> NDArray:
    """Rounded to the storage type, and never to infinity."""
    most = np.finfo(dtype).max
    return np.clip(values, -most, most).astype(dtype)


def _wide(scale: NDArray) -> F32:
    """[O, G] in storage → float32 [O, G, 1]."""
    return scale.astype(np.float32)[..., None]


def _pieces(shape: tuple[int, ...]) -> Iterator[slice]:
    step = max(1, _PIECE // shape[1])
    for start in range(0, shape[0], step):
        yield slice(start, start + step)

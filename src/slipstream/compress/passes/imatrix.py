"""Importance-weighted rounding: like llama.cpp's importance matrix, on affine grids.

Each weight's squared error counts by the mean square of its input, xᵢ², times √(σ² + w²) as in
ggml's ``quantize_row_q4_0_impl`` (σ² is the mean square of the row). A group tries several spans;
for the codes of each, the scale (or scale and minimum) is the weighted least-squares one, and the
span with the least weighted error wins.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from slipstream.compress.passes.grid import Grid, fit_grid, from_codes, to_codes, to_storage
from slipstream.formats.affine import symmetric_reach
from slipstream.formats.nibbles import pieces
from slipstream.formats.tensor import Affine, AffineTensor

F32 = NDArray[np.float32]

_STEPS = np.linspace(-0.25, 0.12, 13, dtype=np.float32)  # of the reach: where minima were found
_REFITS = 2  # codes → scale → codes


def round_weighted(weight: F32, power: F32, format: Affine) -> AffineTensor:
    """float32 [O, I] with the inputs' mean squares [I] → codes on the grid that errs least."""
    grid = fit_grid(weight, format, "mse", importance=np.maximum(power, 1e-12))
    groups = grid.scale.shape[1]
    codes = np.empty(weight.shape, np.float32)
    for rows in pieces(weight.shape):
        part = weight[rows].reshape(-1, groups, weight.shape[1] // groups)
        importance = _importance(part, power)
        best = _Best(part, importance, grid, rows)
        for scale, zero in _candidates(part, importance, format, grid.scale.dtype):
            best.offer(scale, zero)
        found = to_codes(part, _wide(grid.scale[rows]), grid.zero[rows][..., None], format)
        codes[rows] = found.reshape(weight[rows].shape)
    return grid.tensor(codes.astype(np.uint8 if format.nibbles else np.int8))


def _importance(grouped: F32, power: F32) -> F32:
    """[O, G, N]: xᵢ² · √(σ² + w²)."""
    sigma2 = np.square(grouped).mean(axis=(1, 2), keepdims=True)
    scaled = power / max(float(power.mean()), 1e-30)
    return np.sqrt(sigma2 + np.square(grouped)) * scaled.reshape(1, *grouped.shape[1:])


class _Best:
    """The least weighted error so far of each group, kept in a grid."""

    def __init__(self, grouped: F32, importance: F32, grid: Grid, rows: slice) -> None:
        self.grouped, self.importance, self.grid, self.rows = grouped, importance, grid, rows
        self.error = self._errors(grid.scale[rows], grid.zero[rows])

    def offer(self, scale: NDArray, zero: F32) -> None:
        """Takes the groups for which this grid is better."""
        error = self._errors(scale, zero)
        better = error < self.error
        rows = self.rows
        self.grid.scale[rows] = np.where(better, scale, self.grid.scale[rows])
        self.grid.zero[rows] = np.where(better, zero, self.grid.zero[rows])
        self.error = np.minimum(error, self.error)

    def _errors(self, scale: NDArray, zero: F32) -> F32:
        format, wide, zeros = self.grid.format, _wide(scale), zero[..., None]
        codes = to_codes(self.grouped, wide, zeros, format)
        difference = from_codes(codes, wide, zeros, format) - self.grouped
        return np.asarray((self.importance * np.square(difference)).sum(axis=-1))


def _candidates(
    grouped: F32, importance: F32, format: Affine, dtype: np.dtype
) -> Iterator[tuple[NDArray, F32]]:
    """Grids for several spans, each refitted to its own codes."""
    for step in _STEPS:
        scale, zero = _span(grouped, format, np.float32(1) - step, dtype)
        for _ in range(_REFITS):
            codes = to_codes(grouped, _wide(scale), zero[..., None], format)
            scale, zero = _refit(grouped, importance, codes, zero, format=format, dtype=dtype)
            yield scale, zero


def _span(grouped: F32, format: Affine, share: np.float32, dtype: np.dtype) -> tuple[NDArray, F32]:
    low, high = format.code_range
    least, most = grouped.min(axis=-1), grouped.max(axis=-1)
    if format.zero == "symmetric":
        furthest = np.where(most > -least, most, least)
        reach = np.float32(symmetric_reach(format) + 0.5) * (-1 if format.nibbles else 1)
        scale = to_storage(furthest * share / reach, dtype)
        return scale, np.full(scale.shape, format.code_of_zero, np.float32)
    least, most = np.minimum(least, 0) * share, np.maximum(most, 0) * share
    scale = to_storage((most - least) / np.float32(high - low), dtype)
    if format.zero == "minimum":
        return scale, to_storage(least - low * scale.astype(np.float32), dtype).astype(np.float32)
    wide = scale.astype(np.float32)
    steps = np.divide(least, wide, out=np.zeros_like(least), where=wide != 0)
    return scale, np.clip(np.rint(low - steps), low, high)


def _refit(
    grouped: F32, importance: F32, codes: F32, zero: F32, *, format: Affine, dtype: np.dtype
) -> tuple[NDArray, F32]:
    """Weighted least squares for fixed codes: the scale, and the minimum where there is one."""
    if format.zero != "minimum":
        steps = codes - zero[..., None]
        below = (importance * steps * steps).sum(axis=-1)
        above = (importance * steps * grouped).sum(axis=-1)
        return to_storage(_divided(above, below), dtype), zero
    total = importance.sum(axis=-1)
    mean_q = _divided((importance * codes).sum(axis=-1), total)
    mean_w = _divided((importance * grouped).sum(axis=-1), total)
    steps = codes - mean_q[..., None]
    below = (importance * steps * steps).sum(axis=-1)
    above = (importance * steps * grouped).sum(axis=-1)
    scale = to_storage(_divided(above, below), dtype)
    minimum = to_storage(mean_w - scale.astype(np.float32) * mean_q, dtype)
    return scale, minimum.astype(np.float32)


def _divided(above: F32, below: F32) -> F32:
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)


def _wide(scale: NDArray) -> F32:
    return scale.astype(np.float32)[..., None]

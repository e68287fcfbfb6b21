"""HQQ: a grid whose errors are sparse, found without any calibration.

Badri & Shaji 2023, https://mobiusml.github.io/hqq_blog. The error E = W - Q is asked to be small
in ‖·‖ₚ with p < 1, which forgives the few outliers. Half-quadratic splitting alternates

    E ← shrink(W - Q, β)    the outliers, by a generalised soft threshold
    grid ← fit of W - E     for W without its outliers

with β growing. The authors move a float zero only; here zeros are whole codes, which hardly move:
the scale is fitted as well. Errors are measured in steps of the grid, which makes β independent of
the weights' size.
"""

import numpy as np
from numpy.typing import NDArray

from slipstream.compress.passes.grid import fit_grid, from_codes, inverse_of, to_codes, to_storage
from slipstream.formats.nibbles import pieces
from slipstream.formats.tensor import Affine, AffineTensor

F32 = NDArray[np.float32]

_KAPPA = 1.01  # β grows by it in each step, as in the authors' code


def round_half_quadratic(
    weight: F32, format: Affine, p: float = 0.7, steps: int = 20, beta: float = 10.0
) -> AffineTensor:
    """float32 [O, I] → codes on the optimized grid."""
    grid = fit_grid(weight, format, "minmax")
    groups = grid.scale.shape[1]
    codes = np.empty(weight.shape, np.float32)
    for rows in pieces(weight.shape):
        grouped = weight[rows].reshape(-1, groups, weight.shape[1] // groups)
        scale, zero = _alternate(
            grouped, grid.scale[rows].astype(np.float32), grid.zero[rows], format, (p, steps, beta)
        )
        grid.scale[rows] = to_storage(scale, grid.scale.dtype)
        grid.zero[rows] = _storable(zero, format)
        wide = grid.scale[rows].astype(np.float32)[..., None]
        found = to_codes(grouped, wide, grid.zero[rows][..., None], format)
        codes[rows] = found.reshape(weight[rows].shape)
    return grid.tensor(codes.astype(np.uint8 if format.nibbles else np.int8))


def shrink(x: F32, beta: float, p: float) -> F32:
    """sign(x) · max(0, |x| - |x|^(p-1) / β): the authors' proximal operator."""
    size = np.abs(x)
    less = np.power(size, p - 1, out=np.zeros_like(size), where=size > 0) / np.float32(beta)
    return np.sign(x) * np.maximum(size - less, 0)


def _alternate(
    grouped: F32, scale: F32, zero: F32, format: Affine, options: tuple[float, int, float]
) -> tuple[F32, F32]:
    """Scale and zero [O, G] of the step whose mean |W - Q| is least, group by group."""
    p, steps, beta = options
    best = (scale, zero)
    least = np.full(scale.shape, np.inf, np.float32)
    for _ in range(steps):
        wide, zeros = scale[..., None], zero[..., None]
        codes = to_codes(grouped, wide, zeros, format)
        error = grouped - from_codes(codes, wide, zeros, format)
        size = np.abs(error).mean(axis=-1)
        better = size < least
        best = (np.where(better, scale, best[0]), np.where(better, zero, best[1]))
        least = np.minimum(size, least)
        kept = grouped - shrink(error * inverse_of(wide), beta, p) * wide
        scale, zero = _moved(kept, codes, scale, zero, format)
        beta *= _KAPPA
    return best


def _moved(kept: F32, codes: F32, scale: F32, zero: F32, format: Affine) -> tuple[F32, F32]:
    """The grid refitted to the weights without their outliers."""
    if format.zero == "symmetric":
        steps = codes - zero[..., None]
        below = (steps * steps).sum(axis=-1)
        above = (steps * kept).sum(axis=-1)
        return np.divide(above, below, out=scale.copy(), where=below > 0), zero
    if format.zero == "minimum":
        return scale, (kept - codes * scale[..., None]).mean(axis=-1)
    centred = codes - codes.mean(axis=-1, keepdims=True)
    spread = (centred * centred).sum(axis=-1)
    slope = np.divide((centred * kept).sum(axis=-1), spread, out=scale.copy(), where=spread > 0)
    whole = _storable((codes - kept * inverse_of(slope)[..., None]).mean(axis=-1), format)
    steps = codes - whole[..., None]
    below = (steps * steps).sum(axis=-1)
    return np.divide((steps * kept).sum(axis=-1), below, out=slope, where=below > 0), whole


def _storable(zero: F32, format: Affine) -> F32:
    """A whole code, or a minimum as float16 holds it."""
    if format.zero == "minimum":
        return to_storage(zero, np.dtype(np.float16)).astype(np.float32)
    return np.clip(np.rint(zero), *format.code_range).astype(np.float32)

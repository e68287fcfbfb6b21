"""Scales fitted again to settled codes, so that the outputs move least.

For fixed codes C (row o, group g: the codes counted from zero) the row's error is quadratic in its
G scales: (w - C s)ᵀ H (w - C s) is least where (Cᵀ H C) s = Cᵀ H w. Plain least squares per group
ignores how groups act together; this does not. A row keeps its old scales where rounding the new
ones to storage leaves it worse.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from slipstream.compress.passes.grid import to_storage
from slipstream.formats.nibbles import unpack_nibbles
from slipstream.formats.tensor import AffineTensor

F32 = NDArray[np.float32]

_BYTES = 32 << 20  # of the products of some rows with H, kept apart by group
_RIDGE = 1e-3  # towards the old scales, as a share of the mean diagonal


def refit_scales(weight: F32, tensor: AffineTensor, hessian: F32) -> AffineTensor:
    """`tensor` with better scales for float32 [O, I]; one with float minimums is left alone."""
    if tensor.format.zero == "minimum":
        return tensor
    steps = _steps(tensor)  # [O, G, N]
    rows, groups, _ = steps.shape
    scales = tensor.scales.copy()
    at_once = max(1, _BYTES // (4 * groups * weight.shape[1]))
    for start in range(0, rows, at_once):
        part = slice(start, start + at_once)
        better = _refit(weight[part], steps[part], tensor.scales[part].astype(np.float32), hessian)
        scales[part] = to_storage(better, tensor.scales.dtype)
    return _best_rows(weight, tensor, replace(tensor, scales=scales), hessian)


def _refit(weight: F32, steps: F32, scales: F32, hessian: F32) -> F32:
    """float32 [R, G]: the solutions of the normal equations of R rows."""
    rows, groups, each = steps.shape
    apart = np.empty((rows, groups, weight.shape[1]), np.float32)  # Cᵀ H, by group
    for g in range(groups):
        np.matmul(steps[:, g], hessian[g * each : (g + 1) * each], out=apart[:, g])
    left = np.einsum("rghn,rhn->rgh", apart.reshape(rows, groups, groups, each), steps)
    right = np.einsum("rgi,ri->rg", apart, weight)
    left = left.astype(np.float64)
    ridge = _RIDGE * np.trace(left, axis1=1, axis2=2) / groups + 1e-30
    left[:, np.arange(groups), np.arange(groups)] += ridge[:, None]
    found = np.linalg.solve(left, (right + ridge[:, None] * scales)[..., None])
    return found[..., 0].astype(np.float32)


def _best_rows(
    weight: F32, before: AffineTensor, after: AffineTensor, hessian: F32
) -> AffineTensor:
    """Row by row whichever loses less."""
    losses = [_row_losses(weight - tensor.dequantize(), hessian) for tensor in (before, after)]
    worse = ~(losses[1] < losses[0])
    return replace(after, scales=np.where(worse[:, None], before.scales, after.scales))


def _row_losses(difference: F32, hessian: F32) -> F32:
    """d H dᵀ of every row d."""
    return np.einsum("oi,oi->o", difference @ hessian, difference)


def _steps(tensor: AffineTensor) -> F32:
    """Codes counted from their zero, float32 [O, G, N]."""
    codes = unpack_nibbles(tensor.codes) if tensor.format.nibbles else tensor.codes
    grouped = codes.astype(np.float32).reshape(*tensor.scales.shape, -1)
    if tensor.offsets is not None:
        return grouped - tensor.offsets.astype(np.float32)[..., None]
    return grouped - np.float32(tensor.format.code_of_zero)

"""Coordinate descent on codes: each column again, given what all others have become.

Behdin et al. 2023 (QuantEase), https://arxiv.org/abs/2309.01885. With D = W - Q, column i's best
value on the grid is the nearest to wᵢ + Σ_{j≠i} dⱼ Hⱼᵢ / Hᵢᵢ; tr(D H Dᵀ) never rises. Started from
GPTQ's codes it mends what the greedy order left, on the same grid.
"""

import numpy as np
from numpy.typing import NDArray

from slipstream.compress.passes.grid import Grid, from_codes, to_codes
from slipstream.formats.nibbles import unpack_nibbles
from slipstream.formats.tensor import AffineTensor

F32 = NDArray[np.float32]

_BLOCK = 64  # columns settled before the products with all others are brought up to date


def descend(
    weight: F32,
    tensor: AffineTensor,
    hessian: F32,
    damping: float = 0.01,
    sweeps: int = 3,
    *,
    kept_zero: NDArray[np.bool_] | None = None,
) -> AffineTensor:
    """The codes of `tensor` improved in `sweeps` rounds over all columns; the grid stays.

    weight     float32 [O, I], what `tensor` was rounded from
    kept_zero  bool [O, I]: weights that were pruned; their codes stay as they are
    """
    damped = _damped(hessian, damping)
    grid = grid_of(tensor)
    codes = codes_of(tensor)
    difference = (weight - tensor.dequantize()).T.copy()  # D [I, O]
    for _ in range(sweeps):
        if not _sweep((weight, kept_zero), damped, grid, codes, difference):
            break
    return grid.tensor(codes)


def grid_of(tensor: AffineTensor) -> Grid:
    """The grid that a tensor's codes lie on."""
    format = tensor.format
    if tensor.offsets is None:
        zero = np.full(tensor.scales.shape, format.code_of_zero, np.float32)
    else:
        zero = tensor.offsets.astype(np.float32)
    return Grid(format, tensor.scales, zero)


def codes_of(tensor: AffineTensor) -> NDArray:
    """One code an element, [O, I]."""
    return unpack_nibbles(tensor.codes) if tensor.format.nibbles else tensor.codes.copy()


def loss(difference: F32, hessian: F32) -> float:
    """tr(D H Dᵀ) of D [O, I]."""
    return float(np.vdot(difference @ hessian, difference))


def _sweep(
    pruned: tuple[F32, NDArray[np.bool_] | None],
    hessian: F32,
    grid: Grid,
    codes: NDArray,
    difference: F32,
) -> bool:
    """Every column once; whether any code changed. P = H D is kept up to date block by block."""
    weight, kept_zero = pruned
    width = weight.shape[1]
    group = width // grid.scale.shape[1]
    scale, zero = grid.scale.astype(np.float32), grid.zero
    changed = False
    for start in range(0, width, _BLOCK):
        block = slice(start, min(start + _BLOCK, width))
        pull = hessian[block] @ difference  # [B, O]
        before = difference[block].copy()
        for i in range(block.stop - start):
            column = start + i
            at = column // group
            moved = difference[block] - before
            now = pull[i] + hessian[column, block] @ moved
            own = hessian[column, column]
            target = weight[:, column] + (now - own * difference[column]) / own
            found = to_codes(target, scale[:, at], zero[:, at], grid.format)
            if kept_zero is not None:
                np.copyto(found, codes[:, column], where=kept_zero[:, column])
            value = from_codes(found, scale[:, at], zero[:, at], grid.format)
            changed |= bool((found != codes[:, column]).any())
            codes[:, column] = found
            difference[column] = weight[:, column] - value
    return changed


def _damped(hessian: F32, damping: float) -> F32:
    diagonal = np.diagonal(hessian)
    added = damping * float(diagonal.mean()) or 1.0
    return hessian + np.float32(added) * np.eye(len(hessian), dtype=np.float32)

"""GPTQ: round column by column, and let the columns still to come make up for each error.

Frantar et al. 2022, https://arxiv.org/abs/2210.17323, with its symbols. W [O, I] is to be replaced
by Q on a grid so that ‖(W - Q) X‖² is least, H = X Xᵀ [I, I] being the inputs' second moments.
With H⁻¹ = Uᵀ U, U upper triangular, column i's error e = (w - q) / Uᵢᵢ is spread over the columns
after it as w_j ← w_j - e Uᵢⱼ. The sum of all e² is then exactly tr((W - Q) H (W - Q)ᵀ).

Options of later practice: `act_order` takes the columns with the largest Hᵢᵢ first, and then the
groups' grids are fitted beforehand ("static groups"), so that groups stay consecutive inputs.
"""

from dataclasses import dataclass
from math import gcd

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack

from slipstream.compress.passes.grid import Clip, Grid, code_range, fit_grid, inverse_of
from slipstream.errors import NumericError
from slipstream.formats.tensor import Affine, AffineTensor

F32 = NDArray[np.float32]

_ATTEMPTS = 4  # each with ten times the damping of the one before
_LAZY_COLUMNS = 32  # columns settled before the rest is updated in one product


@dataclass(frozen=True)
class Factor:
    """What GPTQ needs of a Hessian; it depends on neither weights nor format."""

    upper: F32  # U [I, I], of H permuted by `order`
    order: NDArray[np.intp]  # [I]: the column to settle first, second, …
    diagonal: F32  # [I]: Hᵢᵢ before damping, in the inputs' own order
    damping: float  # share of the mean diagonal that was added


@dataclass(frozen=True)
class Rounded:
    """A settled matrix and its loss tr((W - Q) H (W - Q)ᵀ), damping included."""

    tensor: AffineTensor
    loss: float


def factor_hessian(hessian: NDArray, damping: float = 0.01, act_order: bool = True) -> Factor:
    """H [I, I] → U with H⁻¹ = Uᵀ U.

    `damping` times the mean of the diagonal is added to it, and ten times as much again while H is
    not positive definite. Inputs that were never non-zero (Hᵢᵢ = 0) decouple: their weights are
    simply rounded. NumericError if H is not finite or four attempts fail.
    """
    diagonal = np.diagonal(hessian).astype(np.float64)
    if not np.isfinite(hessian).all():
        raise NumericError("the Hessian holds infinities or NaN: the calibration inputs overflowed")
    order = np.argsort(-diagonal, kind="stable") if act_order else np.arange(len(diagonal))
    mean = diagonal[diagonal > 0].mean() if (diagonal > 0).any() else 1.0
    for attempt in range(_ATTEMPTS):
        share = damping * 10**attempt
        upper = _inverse_factor(hessian, order, diagonal, share * mean)
        if upper is not None:
            return Factor(upper, order, diagonal.astype(np.float32), share)
    raise NumericError(
        f"the Hessian cannot be factored even with {share:g} of its mean diagonal added; "
        "calibrate on more text, or use round-to-nearest for this layer"
    )


def _inverse_factor(
    hessian: NDArray, order: NDArray[np.intp], diagonal: NDArray[np.float64], added: float
) -> F32 | None:
    """U, or None if H + added · I is not positive definite.

    Reversed, a lower Cholesky factor becomes R upper with R Rᵀ = H; then U = R⁻¹. That is half the
    work of inverting H and factoring the inverse, and loses fewer digits. All of it happens in one
    float64 matrix: at 8192 inputs each further one would be half a gigabyte.
    """
    backwards = order[::-1]
    damped = _permuted(hessian, backwards)
    damped[np.diag_indices_from(damped)] += np.where(diagonal > 0, added, 1.0)[backwards]
    lower, failed = lapack.dpotrf(damped, lower=1, clean=1, overwrite_a=1)
    if failed:
        return None
    _reverse(lower.T.reshape(-1))  # both axes at once: R
    upper, failed = lapack.dtrtri(lower, lower=0, overwrite_c=1)
    if failed or not np.isfinite(upper).all():
        return None
    return np.ascontiguousarray(upper, np.float32)


def _permuted(hessian: NDArray, order: NDArray[np.intp]) -> NDArray[np.float64]:
    """float64 [I, I] in LAPACK's layout, some columns at a time."""
    result = np.empty(hessian.shape, np.float64, order="F")
    for start in range(0, len(order), _LAZY_COLUMNS):
        columns = slice(start, start + _LAZY_COLUMNS)
        result[:, columns] = hessian[np.ix_(order, order[columns])]
    return result


def _reverse(flat: NDArray[np.float64]) -> None:
    """In place, with room for half of it."""
    half = len(flat) // 2
    first = flat[:half].copy()
    flat[:half] = flat[: -half - 1 : -1]
    flat[len(flat) - half :] = first[::-1]


def gptq(
    weight: F32,
    factor: Factor,
    format: Affine,
    clip: Clip = "mse",
    *,
    kept_zero: NDArray[np.bool_] | None = None,
) -> Rounded:
    """Rounds float32 [O, I] onto a grid of `format`, with float16 scales.

    Rows are independent: linears that read the same input may be stacked. Groups of a permuted
    order are fitted beforehand; in the plain order each is fitted when its first column comes up,
    to the weights as they have become. ValueError if the group does not divide I.

    kept_zero  bool [O, I]: weights that were pruned and stay zero (where the format has a zero)
    """
    outputs, inputs = weight.shape
    in_order = bool((factor.order[1:] > factor.order[:-1]).all())
    grid = fit_grid(weight, format, clip, importance=factor.diagonal)
    scale, zero = np.array(grid.scale.T, np.float32), np.array(grid.zero.T)  # [G, O]
    group = inputs // len(scale)
    remaining = np.ascontiguousarray(weight.T[factor.order])  # W [I, O], one column of W a row
    codes = np.empty((inputs, outputs), np.uint8 if format.nibbles else np.int8)
    loss = 0.0
    step = gcd(_LAZY_COLUMNS, group) if in_order else _LAZY_COLUMNS
    for start in range(0, inputs, step):
        end = min(start + step, inputs)
        if in_order and start % group == 0:
            _refit(grid, start // group, remaining[start : start + group], factor, clip)
            scale[start // group] = grid.scale[:, start // group]
            zero[start // group] = grid.zero[:, start // group]
        groups = factor.order[start:end] // group
        upper = factor.upper[start:end]
        errors, settled = _settle(
            remaining[start:end],
            upper[:, start:end],
            scale[groups],
            zero[groups],
            format,
            kept_zero=None if kept_zero is None else kept_zero.T[factor.order[start:end]],
        )
        codes[factor.order[start:end]] = settled
        remaining[end:] -= upper[:, end:].T @ errors
        loss += float(np.vdot(errors, errors))
    return Rounded(grid.tensor(np.ascontiguousarray(codes.T)), loss)


def _settle(
    columns: F32,
    upper: F32,
    scale: F32,
    zero: F32,
    format: Affine,
    *,
    kept_zero: NDArray[np.bool_] | None,
) -> tuple[F32, NDArray]:
    """Rounds B columns (float32 [B, O], changed in place) one after the other.

    upper  U [B, B] of these columns; scale, zero [B, O] their grids. Returns errors E [B, O] and
    codes [B, O].
    """
    low, high = code_range(format)
    inverse = inverse_of(scale)
    shift = np.zeros_like(zero) if format.zero == "minimum" else zero  # of codes
    floor = zero if format.zero == "minimum" else np.zeros_like(zero)  # of values
    codes = np.empty_like(columns)
    errors = np.empty_like(columns)
    for i, w in enumerate(columns):
        q, e = codes[i], errors[i]
        np.subtract(w, floor[i], out=q)
        q *= inverse[i]
        q += shift[i]
        np.rint(q, out=q)
        np.clip(q, low, high, out=q)
        if kept_zero is not None and format.zero != "minimum":
            np.copyto(q, zero[i], where=kept_zero[i])
        np.subtract(q, shift[i], out=e)
        e *= scale[i]
        e += floor[i]
        np.subtract(w, e, out=e)
        e /= upper[i, i]
        columns[i + 1 :] -= upper[i, i + 1 :, None] * e
    return errors, codes


def _refit(grid: Grid, index: int, columns: F32, factor: Factor, clip: Clip) -> None:
    """Fits group `index` of `grid` again, in place, to float32 [N, O] columns."""
    importance = factor.diagonal[index * len(columns) : (index + 1) * len(columns)]
    whole = Affine(grid.format.bits, None, grid.format.zero)
    again = fit_grid(np.ascontiguousarray(columns.T), whole, clip, importance=importance)
    grid.scale[:, index] = again.scale[:, 0]
    grid.zero[:, index] = again.zero[:, 0]

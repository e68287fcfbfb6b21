"""Weights moved to make up for inputs that earlier rounding has changed.

In the compressed model a linear reads x where the original read x̃. What should be kept is W x̃, so
the best weights before any rounding are W' = W X̃Xᵀ (XXᵀ)⁻¹: the asymmetric calibration of GPTAQ,
Li et al. 2025, https://arxiv.org/abs/2504.02692, solved once beforehand. A ridge keeps W' near W
where the calibration text says little.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cho_factor, cho_solve

from slipstream.errors import NumericError

F32 = NDArray[np.float32]

RIDGE = 0.05  # of the mean diagonal of H


def corrected(weight: F32, hessian: F32, cross: F32, share: float = 1.0) -> F32:
    """W + share · W (C - H) (H + λI)⁻¹, float32 [O, I]; C = mean of x̃ xᵀ, H = mean of x xᵀ.

    NumericError if H cannot be factored, or C is not finite.
    """
    damped = hessian.astype(np.float64)
    damped[np.diag_indices_from(damped)] += RIDGE * max(float(np.diagonal(damped).mean()), 1e-30)
    if not np.isfinite(cross).all():
        raise NumericError("the inputs in the original model are not finite")
    try:
        factor = cho_factor(damped, lower=True, overwrite_a=True, check_finite=False)
    except LinAlgError:
        raise NumericError("the second moments of its inputs cannot be factored") from None
    difference = (cross - hessian).astype(np.float64)
    moved = cho_solve(factor, (weight @ difference).T, check_finite=False).T
    return np.asarray(weight + share * moved, np.float32)

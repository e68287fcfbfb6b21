"""The plain quantizers as passes: their options, and which mathematics they call."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from slipstream.compress.moments import Moments
from slipstream.compress.passes import hqq, imatrix
from slipstream.compress.passes.descent import descend
from slipstream.compress.passes.gptq import factor_hessian, gptq
from slipstream.compress.passes.grid import Clip
from slipstream.compress.passes.rounding import Rounding
from slipstream.compress.passes.rtn import round_to_nearest
from slipstream.compress.passes.scales import refit_scales
from slipstream.errors import NumericError
from slipstream.formats.tensor import Affine, AffineTensor, Zero

F32 = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Rtn(Rounding):
    """Round to nearest. clip: ``minmax`` spans each group, ``mse`` searches the span."""

    clip: Clip = "mse"

    def round(self, weight: F32, moments: Moments | None, format: Affine) -> AffineTensor:
        """Each weight on its own."""
        return round_to_nearest(weight, format, self.clip)


@dataclass(frozen=True, kw_only=True)
class Gptq(Rounding):
    """GPTQ; see `passes.gptq`.

    damping    share of the mean diagonal that is added to the Hessian; None: as much as so many
               rows want (`Moments.damping`)
    act_order  loudest inputs first, with groups fitted beforehand
    sweeps     rounds afterwards of fitting the scales again (`passes.scales`) and of coordinate
               descent (`passes.descent`)
    """

    clip: Clip = "mse"
    damping: float | None = None
    act_order: bool = True
    sweeps: int = 0

    @property
    def calibrated(self) -> bool:
        """By H."""
        return True

    def round(self, weight: F32, moments: Moments | None, format: Affine) -> AffineTensor:
        """Column by column; errors move on. What was pruned stays zero."""
        hessian = hessian_of(moments)
        assert moments is not None
        damping = moments.damping if self.damping is None else self.damping
        factor = factor_hessian(hessian, damping, self.act_order)
        kept = zeros_of(weight)
        tensor = gptq(weight, factor, format, self.clip, kept_zero=kept).tensor
        for _ in range(self.sweeps):
            tensor = refit_scales(weight, tensor, hessian)
            tensor = descend(weight, tensor, hessian, damping, sweeps=1, kept_zero=kept)
        return tensor


@dataclass(frozen=True, kw_only=True)
class Imatrix(Rounding):
    """Rounding weighted by the power of each input; see `passes.imatrix`."""

    @property
    def calibrated(self) -> bool:
        """By the diagonal of H."""
        return True

    def round(self, weight: F32, moments: Moments | None, format: Affine) -> AffineTensor:
        """Scales by weighted least squares."""
        if moments is None:
            raise NumericError("there is no calibration")
        return imatrix.round_weighted(weight, moments.power, format)


@dataclass(frozen=True, kw_only=True)
class Hqq(Rounding):
    """Half-quadratic quantization, without calibration; see `passes.hqq`.

    p      of the ‖W - Q‖ₚ that is made small; below 1 it forgives outliers
    steps  of the alternation
    """

    zero: Zero = "zero_point"
    p: float = 0.7
    steps: int = 20
    beta: float = field(default=10.0)

    def round(self, weight: F32, moments: Moments | None, format: Affine) -> AffineTensor:
        """Zeros (or symmetric scales) by alternation."""
        return hqq.round_half_quadratic(weight, format, self.p, self.steps, self.beta)


def zeros_of(weight: F32) -> NDArray[np.bool_] | None:
    """Where an earlier pass pruned; None where hardly anything is zero."""
    zeros: NDArray[np.bool_] = weight == 0
    return zeros if zeros.mean() > 0.05 else None


def hessian_of(moments: Moments | None) -> F32:
    """H [I, I]; NumericError without calibration."""
    if moments is None:
        raise NumericError("there is no calibration")
    return moments.hessian

"""AWQ: protect the weights of loud inputs by scaling them up before rounding.

Lin et al. 2023, https://arxiv.org/abs/2306.00978. For each input group s = s_X^α, s_X being the
inputs' size (here the root of their mean square), α is searched so that the outputs move least:
‖(Q(W · diag(s)) · diag(s)⁻¹ - W) X‖² = tr(D H Dᵀ). The scale is folded into what writes the input
(`passes.folding`); then all linears are rounded, with clipped spans.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from slipstream.compress.moments import Moments
from slipstream.compress.passes import folding
from slipstream.compress.passes.gptq import factor_hessian, gptq
from slipstream.compress.passes.rounding import Rounding, selected
from slipstream.compress.passes.rtn import round_to_nearest
from slipstream.compress.work import Visit
from slipstream.errors import NumericError
from slipstream.formats.affine import group_count
from slipstream.formats.tensor import Affine, AffineTensor, DenseTensor

F32 = NDArray[np.float32]

_ROWS = 512  # of the linears that share an input, evenly spaced: enough to choose one α


@dataclass(frozen=True, kw_only=True)
class Awq(Rounding):
    """AWQ's scales, then rounding.

    steps     values of α tried between 0 and 1
    rounding  how the scaled weights are rounded: ``nearest`` as in the paper, or ``gptq``
    """

    steps: int = 20
    rounding: Literal["nearest", "gptq"] = "nearest"
    damping: float | None = None

    @property
    def calibrated(self) -> bool:
        """By H."""
        return True

    def visit(self, visit: Visit) -> None:
        """Scales what can be scaled, then rounds."""
        moments = dict(visit.moments)
        for fold in folding.folds_of(visit):
            names = fold.group.weights
            taken = all(selected(self.select, name, visit.roles[name]) for name in names)
            known = moments.get(fold.group.key)
            if not taken or known is None or not self._rounds(known) or not _finite(visit, names):
                continue
            scale = fold.shared(self._search(visit, fold, known))
            folding.apply(visit, fold, scale)
            moments.update(dict.fromkeys(names, known.scaled(scale)))
        visit.moments = moments
        super().visit(visit)

    def round(self, weight: F32, moments: Moments | None, format: Affine) -> AffineTensor:
        """The scaled weights; errors count by the scaled inputs."""
        if moments is None:
            raise NumericError("there is no calibration")
        if self.rounding == "gptq":
            damping = moments.damping if self.damping is None else self.damping
            return gptq(weight, factor_hessian(moments.hessian, damping), format).tensor
        return round_to_nearest(weight, format, "mse", moments.power)

    def _rounds(self, moments: Moments) -> bool:
        """Whether rows of so many inputs can be rounded; else they are left, and not scaled."""
        width = len(moments.peak)
        try:
            group_count((1, width), self.format_for(width))
        except ValueError:
            return False
        return True

    def _search(self, visit: Visit, fold: folding.Fold, moments: Moments) -> F32:
        """The best s [I] of the grid, α = 0 (no scaling) among it."""
        weight = np.concatenate([visit.dense(name) for name in fold.group.weights])
        rows = np.linspace(0, len(weight) - 1, min(len(weight), _ROWS)).astype(int)
        weight = np.ascontiguousarray(weight[rows])
        format = self.format_for(weight.shape[1])
        best, least = np.ones(weight.shape[1], np.float32), np.inf
        for alpha in np.arange(self.steps, dtype=np.float32) / np.float32(self.steps):
            scale = fold.shared(scale_of(moments.power, float(alpha)))
            error = output_error(weight, scale, moments.hessian, format)
            if error < least:
                best, least = scale, error
        return best


def scale_of(power: F32, alpha: float) -> F32:
    """s = s_X^α, centred between its extremes, [I]."""
    size = np.sqrt(np.maximum(power, 1e-12))
    scale = np.maximum(size**alpha, 1e-4)
    return np.asarray(scale / np.sqrt(scale.max() * scale.min()), np.float32)


def output_error(weight: F32, scale: F32, hessian: F32, format: Affine) -> float:
    """tr(D H Dᵀ), D = Q(W · diag(s)) · diag(s)⁻¹ - W."""
    rounded = round_to_nearest(weight * scale, format, "minmax").dequantize()
    difference = rounded / scale - weight
    return float(np.vdot(difference @ hessian, difference))


def _finite(visit: Visit, names: tuple[str, ...]) -> bool:
    tensors = (visit.tensor(name) for name in names)
    return all(
        np.isfinite(t.data if isinstance(t, DenseTensor) else t.scales).all() for t in tensors
    )

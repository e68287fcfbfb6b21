"""SmoothQuant: move the difficulty of loud inputs into the weights, so that both round well.

Xiao et al. 2022, https://arxiv.org/abs/2211.10438: sⱼ = max|Xⱼ|^α / max|Wⱼ|^(1-α) for every input
that can be folded (`passes.folding`). Nothing is rounded here: a quantizer follows.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slipstream.compress.passes import folding
from slipstream.compress.stream import stream
from slipstream.compress.work import Drive, Edition, Visit

F32 = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class SmoothQuant:
    """alpha: 0 leaves all difficulty to the inputs, 1 all to the weights."""

    alpha: float = 0.5

    @property
    def calibrated(self) -> bool:
        """By the inputs' peaks."""
        return True

    def run(self, edition: Edition, drive: Drive) -> Edition:
        """Every foldable input of every stage."""
        return stream(edition, drive, self.visit, inputs="now", label="smoothquant")

    def visit(self, visit: Visit) -> None:
        """Scales one stage."""
        for fold in folding.folds_of(visit):
            moments = visit.moments.get(fold.group.key)
            if moments is None:
                continue
            weights = [np.abs(visit.dense(name)).max(axis=0) for name in fold.group.weights]
            scale = smoothing(moments.peak, np.max(weights, axis=0), self.alpha)
            folding.apply(visit, fold, fold.shared(scale))

    def outline(self, edition: Edition) -> Edition:
        """No format changes."""
        return edition


def smoothing(input_peak: F32, weight_peak: F32, alpha: float) -> F32:
    """s [I]; inputs that are never used keep 1."""
    s = input_peak**alpha / np.maximum(weight_peak, 1e-5) ** (1 - alpha)
    used = (input_peak > 0) & (weight_peak > 0)
    return np.where(used, np.maximum(s, 1e-5), 1).astype(np.float32)

"""Distillation: the model as it now is learns to say what the original says.

Hinton et al. 2015, https://arxiv.org/abs/1503.02531. It heals what pruning or sharing broke, and
trains a student or a draft model of another shape (`passes.student`). The mathematics is in
`compress.training.losses`.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from slipstream.compress.passes.trained import Trained, require_training
from slipstream.compress.store import overlay
from slipstream.compress.work import Drive, Edition
from slipstream.errors import UnsupportedError
from slipstream.formats.tensor import DenseTensor


@dataclass(frozen=True, kw_only=True)
class Distill(Trained):
    """Options; see `Trained` for the rest.

    divergence   of soft targets: forward KL(P ‖ Q) covers all that the teacher would say, reverse
                 KL(Q ‖ P) keeps to what it likes best, jensen_shannon is between (`beta`)
    temperature  softens both distributions; the part is multiplied by its square
    soft, labels, hidden, relations
                 weights of soft targets, of the text itself, of rows after each block through
                 learned projections, and of MiniLM's attention relations in the last block
    layers       the teacher's layer for each of the student's; none: evenly spread
    top_k        likeliest tokens of the teacher that are kept on disk; 0: it runs beside
    """

    divergence: Literal["forward", "reverse", "jensen_shannon"] = "forward"
    temperature: float = 1.0
    beta: float = 0.5
    soft: float = 1.0
    labels: float = 0.0
    hidden: float = 0.0
    relations: float = 0.0
    layers: tuple[int, ...] = ()
    top_k: int = 0

    @property
    def teacher_on_disk(self) -> bool:
        """With top_k."""
        return self.top_k > 0

    @property
    def label(self) -> str:
        """What the progress bar says."""
        return "distilling"

    def check(self) -> None:
        """UnsupportedError for weights and temperatures that make no sense."""
        super().check()
        weights = (self.soft, self.labels, self.hidden, self.relations)
        if min(weights) < 0 or not any(weights):
            raise UnsupportedError("distill: the weights of its losses are 0 or more, not all 0")
        if not 0 < self.temperature <= 100 or not 0 < self.beta < 1 or self.top_k < 0:
            raise UnsupportedError("distill: temperature is above 0, beta between 0 and 1")
        if self.top_k and (self.hidden or self.relations):
            raise UnsupportedError(
                "distill: rows and relations need the teacher beside the student; leave out top_k"
            )

    def run(self, edition: Edition, drive: Drive) -> Edition:
        """The trained edition."""
        self.check()
        require_training(edition, drive)
        from slipstream.compress.training.distilling import distill  # noqa: PLC0415  needs torch

        return distill(self, edition, drive)

    def outline(self, edition: Edition) -> Edition:
        """Nothing changes its shape; what was quantized is float32 afterwards."""
        self.check()
        dense = {
            name: DenseTensor(np.broadcast_to(np.float32(0), edition.weights[name].shape))
            for name in edition.graph.weight_names()
            if not isinstance(edition.weights[name], DenseTensor)
        }
        return replace(edition, weights=overlay(edition.weights, dense))

"""Inputs of quantized linears get one scale each, fixed beforehand (static activations).

What a linear reads is rounded to int8 by max|x| / 127 over the calibration text, instead of by a
scale that is found for every 32 inputs of every row; what is louder later is clipped. For hardware
and runtimes that want it so: here it saves nothing, and it costs far more than dynamic rounding
(docs/decisions/0004-int8-activations-by-default.md). It comes last in a recipe, since everything
before it changes what linears read.
"""

from dataclasses import dataclass, replace

import numpy as np

from slipstream.compress.passes.observe import observe, remembered
from slipstream.compress.passes.rounding import selected
from slipstream.compress.work import Drive, Edition, Note, Visit
from slipstream.errors import UnsupportedError
from slipstream.formats.tensor import Quantized
from slipstream.graph.ops import Activations


@dataclass(frozen=True, kw_only=True)
class StaticInputs:
    """share: of the loudest calibrated input that 127 steps reach; below 1 the loudest clip.

    select  roles or patterns: the inputs of other linears stay dynamic
    """

    select: tuple[str, ...] = ("linear", "head")
    share: float = 1.0

    @property
    def calibrated(self) -> bool:
        """By the loudest inputs."""
        return True

    def run(self, edition: Edition, drive: Drive) -> Edition:
        """The edition with a scale for the inputs of each quantized linear."""
        self._check()
        peaks: dict[str, float] = remembered(drive, lambda: self._loudest(edition, drive))
        inputs = {
            name: Activations(8, None, float(np.float32(peak * self.share / 127)))
            for name, peak in peaks.items()
            if peak > 0
        }
        quiet = [name for name, peak in peaks.items() if not peak > 0]
        notes = [
            Note(name, "its inputs are zero or not finite: they stay dynamic") for name in quiet
        ]
        return replace(edition, inputs=inputs, notes=(*edition.notes, *notes))

    def outline(self, edition: Edition) -> Edition:
        """Weights stay."""
        self._check()
        return edition

    def _check(self) -> None:
        if not 0 < self.share <= 1:
            raise UnsupportedError("static_inputs: share is above 0 and at most 1")

    def _loudest(self, edition: Edition, drive: Drive) -> dict[str, float]:
        """The largest |x| that a quantized linear reads, by weight; 0 where one is not finite."""
        found: dict[str, float] = {}

        def look(visit: Visit) -> None:
            for group in visit.groups:
                moments = visit.moments.get(group.key)
                peak = 0.0 if moments is None else float(moments.peak.max())
                for name in group.weights:
                    taken = selected(self.select, name, visit.roles[name])
                    if taken and isinstance(visit.tensor(name), Quantized):
                        found[name] = peak

        observe(edition, drive, look, "measuring inputs")
        return found

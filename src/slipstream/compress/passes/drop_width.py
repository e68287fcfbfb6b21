"""Channels of the residual stream taken out by how loud they are behind the norms.

Minitron, Muralidharan et al. 2024, https://arxiv.org/abs/2407.14679: a channel's score is its mean
size behind every norm. An RMS norm over fewer channels divides by another mean; its gains make up
for the difference that the calibration text shows.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slipstream.compress.passes.observe import observe, remembered
from slipstream.compress.passes.shapes import Kept, reduced, whole_plan
from slipstream.compress.store import overlay
from slipstream.compress.work import Drive, Edition, Visit
from slipstream.errors import UnsupportedError
from slipstream.formats.tensor import DenseTensor, Tensor
from slipstream.graph import ops


@dataclass(frozen=True, kw_only=True)
class DropWidth:
    """share: of the channels that go; what stays is rounded up to a `multiple`."""

    share: float = 0.1
    multiple: int = 32

    @property
    def calibrated(self) -> bool:
        """By the residual stream."""
        return True

    def run(self, edition: Edition, drive: Drive) -> Edition:
        """Scores, chooses, adjusts the norms, and cuts."""
        found = remembered(drive, lambda: self._scores(edition, drive))
        scores = np.array(found["scores"])
        power = {stage: np.array(squares) for stage, squares in found["power"].items()}
        kept = np.sort(np.argsort(-scores, kind="stable")[: self._count(edition)])
        return reduced(_adjusted(edition, power, kept), replace(whole_plan(edition), width=kept))

    def outline(self, edition: Edition) -> Edition:
        """The first channels stand for those that will stay."""
        return reduced(edition, replace(whole_plan(edition), width=np.arange(self._count(edition))))

    def _count(self, edition: Edition) -> int:
        width = edition.graph.width
        if not 0 <= self.share < 1 or self.multiple < 1:
            raise UnsupportedError("share must be in 0 … 1 and multiple above 0, in drop_width")
        wanted = width - int(width * self.share)
        stays = min(width, -(-wanted // self.multiple) * self.multiple)
        if self.share and stays == width:
            raise UnsupportedError(
                f"a share of {self.share:g} takes out none of {width} channels, since what stays "
                f"is rounded up to a multiple of {self.multiple}: raise share, or lower multiple"
            )
        return stays

    def _scores(self, edition: Edition, drive: Drive) -> dict[str, Any]:
        """Of each channel; and the mean square of each at the entry of every stage."""
        scores = np.zeros(edition.graph.width)
        power: dict[str, list[float]] = {}

        def look(visit: Visit) -> None:
            if visit.rows is None:
                return
            power[visit.stage.name] = np.square(visit.rows, dtype=np.float64).mean(axis=0).tolist()
            for group in visit.groups:
                moments = visit.moments.get(group.key)
                if moments is not None and group.width == edition.graph.width:
                    scores[:] += np.sqrt(moments.power)

        observe(edition, drive, look, "scoring channels")
        return {"scores": scores.tolist(), "power": power}


def _adjusted(edition: Edition, power: dict[str, NDArray[np.float64]], kept: Kept) -> Edition:
    """Gains times √(mean square of what stays / of all), by the stage that a norm is in."""
    changed: dict[str, Tensor] = {}
    for node in edition.graph:
        if not isinstance(node.op, ops.Norm) or node.op.kind != "rms":
            continue
        weight = edition.weights[node.op.weight].dequantize()
        if len(weight) != edition.graph.width:
            continue
        parts = node.name.split(".")
        squares = power["head" if parts[0] != "layers" else ".".join(parts[:2])]
        ratio = np.sqrt(squares[kept].mean() / max(squares.mean(), 1e-30))
        gains = (weight + node.op.weight_offset) * ratio - node.op.weight_offset
        changed[node.op.weight] = DenseTensor(gains.astype(np.float32))
    return replace(edition, weights=overlay(edition.weights, changed))

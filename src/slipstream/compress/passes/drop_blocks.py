"""Whole blocks taken out by their influence.

ShortGPT, Men et al. 2024, https://arxiv.org/abs/2403.03853: a block's influence is
1 - E[cos(x, x')], x and x' being the residual stream before and after it. The blocks that turn it
least go.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from slipstream.compress.passes.observe import observe, remembered
from slipstream.compress.passes.shapes import reduced, whole_plan
from slipstream.compress.work import Drive, Edition, Visit
from slipstream.errors import UnsupportedError


@dataclass(frozen=True, kw_only=True)
class DropBlocks:
    """count: how many go; layers: these very ones instead."""

    count: int = 1
    layers: tuple[int, ...] = ()

    @property
    def calibrated(self) -> bool:
        """Unless the layers are named."""
        return not self.layers

    def run(self, edition: Edition, drive: Drive) -> Edition:
        """The model without them."""
        if self.layers:
            return without(edition, self.layers)
        found = np.array(remembered(drive, lambda: influences(edition, drive).tolist()))
        return without(edition, tuple(least(found, self.count)))

    def outline(self, edition: Edition) -> Edition:
        """Blocks are of one size, so the last ones stand for those that will go."""
        count = len(edition.graph.attentions)
        return without(edition, self.layers or tuple(range(count - self.count, count)))


def influences(edition: Edition, drive: Drive) -> NDArray[np.float64]:
    """float64 [layers]: 1 - the mean cosine between what enters a block and what leaves it."""
    found: list[float] = []
    before: list[NDArray[np.float32]] = []

    def look(visit: Visit) -> None:
        if visit.rows is None:
            return
        if before:
            found.append(1 - mean_cosine(before.pop(), visit.rows))
        if visit.stage.layer is not None:
            before.append(np.array(visit.rows))

    observe(edition, drive, look, "measuring the blocks' influence")
    return np.array(found)


def mean_cosine(x: NDArray[np.float32], y: NDArray[np.float32]) -> float:
    """Over rows; rows of zeros count as unturned."""
    sizes = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    products = np.einsum("rw,rw->r", x, y)
    return float(np.divide(products, sizes, out=np.ones_like(sizes), where=sizes > 0).mean())


def least(scores: NDArray[np.float64], count: int) -> list[int]:
    """The numbers of the lowest scores, ascending."""
    return sorted(np.argsort(scores, kind="stable")[:count].tolist())


def without(edition: Edition, gone: tuple[int, ...]) -> Edition:
    """UnsupportedError unless the layers exist and one remains."""
    plan = whole_plan(edition)
    numbers = set(range(len(plan.layers)))
    if not set(gone) <= numbers or len(set(gone)) >= len(numbers):
        raise UnsupportedError(
            f"blocks {sorted(gone)} cannot be dropped from a model of {len(numbers)}"
        )
    layers = tuple(layer for layer in plan.layers if layer.source not in gone)
    return reduced(edition, replace(plan, layers=layers))

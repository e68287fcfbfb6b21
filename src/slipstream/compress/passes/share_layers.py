"""Consecutive blocks that run with one set of weights, as ALBERT's do.

Lan et al. 2019, https://arxiv.org/abs/1909.11942. A model that was not trained so loses much by it:
the pass is the beginning of a healing by distillation, not an end. It saves memory, not work: the
blocks still run one after another. With a rank each block keeps a low-rank correction of its own,
W_l ≈ W + B_l A_l, as relaxed recursive transformers do (Bae et al. 2024,
https://arxiv.org/abs/2410.20672).
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from slipstream.compress.store import overlay
from slipstream.compress.stream import stream
from slipstream.compress.work import F32, Drive, Edition, Visit
from slipstream.errors import UnsupportedError
from slipstream.formats.tensor import DenseTensor, Quantized
from slipstream.graph.graph import weights_of
from slipstream.models.adapted import corrected_weight, correction_names
from slipstream.models.registry import blueprint_of


@dataclass(frozen=True, kw_only=True)
class ShareLayers:
    """every: blocks that share; weights: the mean of theirs, or the first block's.

    rank  of each block's own correction of each matrix, a multiple of 16; 0: none
    """

    every: int = 2
    weights: Literal["mean", "first"] = "mean"
    rank: int = 0

    @property
    def calibrated(self) -> bool:
        """Needs no text."""
        return False

    def run(self, edition: Edition, drive: Drive) -> Edition:
        """The mean of the blocks that share, under the name of the first, and what each differs."""
        self._check(edition)
        if self.weights == "mean" or self.rank:
            edition = stream(edition, drive, self.visit, inputs="none", label="sharing")
        return self._shared(edition)

    def outline(self, edition: Edition) -> Edition:
        """Fewer weights; means are dense."""
        self._check(edition)
        shared = self._shared(edition)
        shapes = blueprint_of(shared.config).shapes
        new = {
            name: DenseTensor(np.broadcast_to(np.float32(0), shapes[name]))
            for name in shapes
            if name not in edition.weights
        }
        return replace(shared, weights=overlay(edition.weights, new))

    def visit(self, visit: Visit) -> None:
        """The first of some blocks becomes their mean; all keep what they differ by."""
        layer = visit.stage.layer
        if layer is None or layer % self.every:
            return
        count = len(visit.edition.graph.attentions)
        together = range(layer, min(layer + self.every, count))
        for node in visit.stage.nodes:
            end = node.name.removeprefix(f"layers.{layer}.")
            others = [visit.edition.graph.node(f"layers.{other}.{end}") for other in together]
            for names in zip(*(weights_of(other.op) for other in others), strict=True):
                tensors = [visit.tensor(name) for name in names]
                if any(isinstance(tensor, Quantized) for tensor in tensors) and visit.rounded(
                    names[0]
                ):
                    raise UnsupportedError("share layers before they are quantized")
                matrices = np.stack([visit.dense(name) for name in names])
                shared = matrices[0] if self.weights == "first" else matrices.mean(axis=0)
                if self.rank and len(together) > 1 and names[0] == corrected_weight(node):
                    self._correct(visit, names, matrices - shared)
                if self.weights == "mean":
                    visit.put_dense(names[0], shared)

    def _correct(self, visit: Visit, names: tuple[str, ...], differences: F32) -> None:
        """A and B of every block, for one matrix."""
        for name, difference in zip(names, differences, strict=True):
            factors = truncated(difference, self.rank)
            for part, values in zip(correction_names(name), factors, strict=True):
                visit.put(part, DenseTensor(values))

    def _check(self, edition: Edition) -> None:
        """UnsupportedError for what cannot be shared, or corrected."""
        if self.every < 2:
            raise UnsupportedError("share_layers: every is 2 or more")
        if self.rank < 0 or self.rank % 16:
            raise UnsupportedError("share_layers: rank is a multiple of 16, or 0")
        if (edition.config.get("slipstream") or {}).get("shares"):
            raise UnsupportedError("this model's layers share weights already")
        blocks = [node for node in edition.graph if corrected_weight(node) is not None]
        sides = [min(edition.weights[weights_of(node.op)[0]].shape) for node in blocks]
        if self.rank and self.rank > min(sides, default=0):
            raise UnsupportedError(f"share_layers: rank is at most {min(sides, default=0)} here")

    def _shared(self, edition: Edition) -> Edition:
        section = dict(edition.config.get("slipstream") or {})
        count = len(edition.graph.attentions)
        section["shares"] = [layer - layer % self.every for layer in range(count)]
        if self.rank:
            section["correction_rank"] = self.rank
        config = {**edition.config, "slipstream": section}
        blueprint = blueprint_of(config)
        return replace(
            edition, config=config, graph=blueprint.graph, weights=overlay(edition.weights, {})
        )


def truncated(difference: F32, rank: int) -> tuple[F32, F32]:
    """A [rank, I] and B [O, rank] with B A nearest to float32 [O, I] in the squared error.

    Where there is no difference B is zero and A is not, so that training can move away from it.
    """
    u, sigma, v = np.linalg.svd(difference, full_matrices=False)
    root = np.sqrt(np.maximum(sigma[:rank], max(float(sigma[0]), 1.0) * 1e-3))
    a = np.ascontiguousarray(root[:, None] * v[:rank], np.float32)
    return a, np.ascontiguousarray(u[:, :rank] * (sigma[:rank] / root), np.float32)

"""Consecutive blocks that run with one set of weights, as ALBERT's do.

Lan et al. 2019, https://arxiv.org/abs/1909.11942. A model that was not trained so loses much by it:
the pass is the beginning of a healing by distillation, not an end. It saves memory, not work: the
blocks still run one after another.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from slipstream.compress.store import overlay
from slipstream.compress.stream import stream
from slipstream.compress.work import Drive, Edition, Visit
from slipstream.errors import UnsupportedError
from slipstream.formats.tensor import Quantized
from slipstream.graph.graph import weights_of
from slipstream.models.registry import blueprint_of


@dataclass(frozen=True, kw_only=True)
class ShareLayers:
    """every: blocks that share; weights: the mean of theirs, or the first block's."""

    every: int = 2
    weights: Literal["mean", "first"] = "mean"

    @property
    def calibrated(self) -> bool:
        """Needs no text."""
        return False

    def run(self, edition: Edition, drive: Drive) -> Edition:
        """The mean of the blocks that share, under the name of the first."""
        if self.weights == "mean":
            edition = stream(edition, drive, self.visit, inputs="none", label="sharing")
        return self._shared(edition)

    def outline(self, edition: Edition) -> Edition:
        """Fewer weights; means are dense."""
        return self._shared(edition)

    def visit(self, visit: Visit) -> None:
        """The first of some blocks becomes their mean."""
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
                visit.put_dense(names[0], matrices.mean(axis=0))

    def _shared(self, edition: Edition) -> Edition:
        if self.every < 2:
            raise UnsupportedError("share_layers: every is 2 or more")
        section = dict(edition.config.get("slipstream") or {})
        if section.get("shares"):
            raise UnsupportedError("this model's layers share weights already")
        count = len(edition.graph.attentions)
        section["shares"] = [layer - layer % self.every for layer in range(count)]
        config = {**edition.config, "slipstream": section}
        blueprint = blueprint_of(config)
        return replace(
            edition, config=config, graph=blueprint.graph, weights=overlay(edition.weights, {})
        )

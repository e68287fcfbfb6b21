"""Pruning single weights: magnitude, Wanda, SparseGPT, with one ratio or one for each layer.

Wanda, Sun et al. 2023, https://arxiv.org/abs/2306.11695: score |W| · ‖X‖₂, compared within a row.
OWL, Yin et al. 2023, https://arxiv.org/abs/2310.05175: layers with more outlying scores keep more.
Shapes stay, so a pruned model is smaller on disk only where a file packs zeros, and faster only on
kernels that skip them: ours do so for 2:4 behind symmetric int8 and int4, where that is faster.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from slipstream.compress.inputs import InputGroup
from slipstream.compress.moments import Moments
from slipstream.compress.passes.gptq import factor_hessian
from slipstream.compress.passes.masks import Pattern, mask_of
from slipstream.compress.passes.rounding import selected
from slipstream.compress.passes.sparsegpt import sparsegpt
from slipstream.compress.stages import stages_of
from slipstream.compress.stream import Inputs, stream
from slipstream.compress.work import Drive, Edition, Visit
from slipstream.errors import NumericError
from slipstream.formats.tensor import DenseTensor

F32 = NDArray[np.float32]

OUTLIER = 5.0  # times the mean score; the paper's M
SPREAD = 0.08  # ratios lie within this of the mean; the paper's λ


@dataclass(frozen=True, kw_only=True)
class Pruner:
    """Options of every pruner of single weights.

    sparsity  the share that goes, where the pattern leaves it open
    pattern   see `passes.masks`
    block     inputs of a run of the pattern ``block``
    """

    select: tuple[str, ...] = ("linear",)
    sparsity: float = 0.5
    pattern: Pattern = "unstructured"
    block: int = 16

    @property
    def calibrated(self) -> bool:
        """Whether it reads moments."""
        return True

    @property
    def inputs(self) -> Inputs:
        """Which inputs it is calibrated on."""
        return "now" if self.calibrated else "none"

    def run(self, edition: Edition, drive: Drive) -> Edition:
        """Every selected weight of every stage, in order."""
        return stream(edition, drive, self.visit, inputs=self.inputs, label=str(self))

    def __str__(self) -> str:
        return type(self).__name__.lower()

    def outline(self, edition: Edition) -> Edition:
        """Zeros take as much room as other values."""
        return edition

    def visit(self, visit: Visit) -> None:
        """The selected weights of one stage."""
        for group in visit.groups:
            for name in group.weights:
                taken = selected(self.select, name, visit.roles[name])
                if taken and not visit.rounded(name) and name not in visit.earlier:
                    self._prune_or_note(visit, name, group)

    def prune(self, weight: F32, moments: Moments | None, sparsity: float) -> F32:
        """float32 [O, I] with zeros; NumericError if it cannot be calibrated."""
        raise NotImplementedError

    def _prune_or_note(self, visit: Visit, name: str, group: InputGroup) -> None:
        try:
            weight = visit.dense(name)
            moments = visit.moments.get(group.key)
            visit.put_dense(name, self.prune(weight, moments, self.sparsity))
        except (NumericError, ValueError) as error:
            visit.note(name, f"left as it was: {error}")


@dataclass(frozen=True, kw_only=True)
class Magnitude(Pruner):
    """The smallest weights of each matrix."""

    @property
    def calibrated(self) -> bool:
        """Needs no text."""
        return False

    def prune(self, weight: F32, moments: Moments | None, sparsity: float) -> F32:
        """By |W|."""
        mask = mask_of(np.abs(weight), self.pattern, sparsity, block=self.block, by_row=False)
        return np.where(mask, 0, weight).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class Wanda(Pruner):
    """By |W| · ‖X‖₂ within each row. owl: one ratio for each layer."""

    owl: bool = False

    @property
    def inputs(self) -> Inputs:
        """How loud each input is."""
        return "power"

    def run(self, edition: Edition, drive: Drive) -> Edition:
        """With OWL, the layers' outliers are counted first."""
        if not self.owl:
            return super().run(edition, drive)
        ratios = owl_ratios(edition, drive, self.sparsity)
        return _with_ratios(self, ratios, edition, drive)

    def prune(self, weight: F32, moments: Moments | None, sparsity: float) -> F32:
        """Rows compare among themselves."""
        scores = np.abs(weight) * np.sqrt(_known(moments).power)
        mask = mask_of(scores, self.pattern, sparsity, block=self.block, by_row=True)
        return np.where(mask, 0, weight).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class SparseGpt(Pruner):
    """Prunes and compensates; see `passes.sparsegpt`. owl: one ratio for each layer.

    damping  share of the mean diagonal that is added to H; None: as much as so many rows want. At
             50 %, `down` of SmolLM2's block 1, loss on other text: of 2048 rows 0.071 with the
             authors' 0.01, 0.045 with 0.3, 0.043 with 1
    """

    damping: float | None = None
    owl: bool = False

    def run(self, edition: Edition, drive: Drive) -> Edition:
        """With OWL, the layers' outliers are counted first."""
        if not self.owl:
            return super().run(edition, drive)
        ratios = owl_ratios(edition, drive, self.sparsity)
        return _with_ratios(self, ratios, edition, drive)

    def prune(self, weight: F32, moments: Moments | None, sparsity: float) -> F32:
        """Column by column."""
        known = _known(moments)
        damping = known.damping if self.damping is None else self.damping
        factor = factor_hessian(known.hessian, damping, act_order=False)
        return sparsegpt(weight, factor, self.pattern, sparsity, self.block)


def owl_ratios(edition: Edition, drive: Drive, sparsity: float) -> dict[str, float]:
    """The sparsity of each stage, by name: less where more scores are outliers."""

    def count(visit: Visit) -> None:
        if visit.stage.layer is not None:
            share = np.array([outlier_share(visit)], np.float32)
            visit.put(_share_name(visit.stage.name), DenseTensor(share))

    observing = replace(drive, folder=drive.folder / "outliers")
    after = stream(edition, observing, count, inputs="power", label="counting outliers")
    names = [stage.name for stage in stages_of(edition.graph) if stage.layer is not None]
    shares = np.array([after.weights[_share_name(name)].dequantize()[0] for name in names])
    return dict(zip(names, spread_ratios(shares, sparsity).tolist(), strict=True))


def spread_ratios(shares: NDArray, sparsity: float, spread: float = SPREAD) -> NDArray:
    """Ratios with the mean `sparsity`, within about `spread` of it, falling with the shares."""
    width = shares.max() - shares.min()
    if width == 0:
        return np.full(len(shares), sparsity)
    kept = (shares - shares.min()) / width * 2 * spread
    return np.clip(sparsity - (kept - kept.mean()), 0, 1)


def outlier_share(visit: Visit) -> float:
    """The share of a block's scores above OUTLIER times their matrix's mean."""
    outliers = total = 0
    for group in visit.groups:
        moments = visit.moments.get(group.key)
        if moments is None:
            continue
        for name in group.weights:
            scores = np.abs(visit.dense(name)) * np.sqrt(moments.power)
            outliers += int((scores > OUTLIER * scores.mean()).sum())
            total += scores.size
    return outliers / max(1, total)


def _share_name(stage: str) -> str:
    return f"share of outliers in {stage}"


def _with_ratios(
    pruner: Pruner, ratios: Mapping[str, float], edition: Edition, drive: Drive
) -> Edition:
    """Each stage with its own sparsity."""

    def visit(visit: Visit) -> None:
        ratio = ratios.get(visit.stage.name, pruner.sparsity)
        replace(pruner, sparsity=ratio).visit(visit)

    return stream(edition, drive, visit, inputs=pruner.inputs, label=f"{pruner} with OWL")


def _known(moments: Moments | None) -> Moments:
    if moments is None:
        raise NumericError("there is no calibration")
    return moments

"""MLP neurons and attention heads taken out by what they add to the residual stream.

A neuron j adds xⱼ times a column of `down`, a head the product of its outputs with its columns of
`output`: scores are the mean squares of those sums, tr(W_c H_cc W_cᵀ). The matrix that read them is
refitted to what remains, W' = W H_{:,k} H_{kk}⁻¹, the least-squares answer (as in OBS and ZipLM,
Kurtic et al. 2023, https://arxiv.org/abs/2302.04089). Key/value heads go with their query heads.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cho_factor, cho_solve

from slipstream.compress.moments import Moments
from slipstream.compress.passes.observe import observe, remembered
from slipstream.compress.passes.shapes import (
    Kept,
    Layer,
    Plan,
    channels_of,
    down_weight,
    output_weight,
    reduced,
    whole_plan,
)
from slipstream.compress.stream import stream
from slipstream.compress.work import Drive, Edition, Note, Visit
from slipstream.errors import NumericError, UnsupportedError

F32 = NDArray[np.float32]
Scope = Literal["layer", "model"]


@dataclass(frozen=True, kw_only=True)
class DropInputs:
    """What heads and neurons have in common.

    share     that goes
    scope     ``layer``: the same share of each; ``model``: the least anywhere, so layers differ
    multiple  counts are rounded up to one
    refit     the reading matrix to what remains
    damping   share of the mean diagonal added before the refit
    """

    share: float = 0.25
    scope: Scope = "layer"
    multiple: int = 1
    refit: bool = True
    damping: float = 0.01

    @property
    def calibrated(self) -> bool:
        """By the inputs of the matrices that read them."""
        return True

    def run(self, edition: Edition, drive: Drive) -> Edition:
        """Scores, chooses, refits block by block, and cuts."""
        plan = whole_plan(edition)
        self.check(plan)
        found = remembered(drive, lambda: self._scores(edition, drive))
        counts = [np.array(layer) for layer in found]
        kept = choose(counts, self.share, self.scope, self.multiple)
        after = replace(plan, layers=tuple(map(self.with_kept, plan.layers, kept)))
        if self.share and [len(some) for some in kept] == [len(layer) for layer in counts]:
            note = Note(f"{self}", "none was taken out: the counts that stay round up to all")
            return replace(edition, notes=(*edition.notes, note))
        if self.refit:
            edition = self._refitted(edition, drive, after)
        return reduced(edition, after)

    def outline(self, edition: Edition) -> Edition:
        """The same share of every layer, since scores are not known yet."""
        plan = whole_plan(edition)
        self.check(plan)
        counts = [np.zeros(self.count(layer)) for layer in plan.layers]
        kept = choose(counts, self.share, "layer", self.multiple)
        return reduced(edition, replace(plan, layers=tuple(map(self.with_kept, plan.layers, kept))))

    def check(self, plan: Plan) -> None:
        """UnsupportedError for a share that leaves nothing, or that rounding leaves nothing of."""
        if not 0 <= self.share < 1 or self.multiple < 1:
            raise UnsupportedError(f"share must be in 0 … 1 and multiple above 0, in {self}")
        most = max(map(self.count, plan.layers))
        stays = -(-(most - int(most * self.share)) // self.multiple) * self.multiple
        if self.share and self.scope == "layer" and stays >= most:
            raise UnsupportedError(
                f"a share of {self.share:g} takes out none of {most} {self}, since what stays is "
                f"rounded up to a multiple of {self.multiple}: raise share, lower multiple, or "
                'choose over the whole model (scope = "model")'
            )

    # What the two kinds say of themselves.

    def __str__(self) -> str:
        raise NotImplementedError

    def count(self, layer: Layer) -> int:
        """How many a layer has."""
        raise NotImplementedError

    def with_kept(self, layer: Layer, kept: Kept) -> Layer:
        """The layer with only these."""
        raise NotImplementedError

    def reader(self, edition: Edition, layer: int) -> str:
        """The matrix whose inputs they are."""
        raise NotImplementedError

    def kept_inputs(self, edition: Edition, layer: Layer) -> Kept:
        """The inputs of that matrix that stay."""
        raise NotImplementedError

    def each(self, edition: Edition) -> int:
        """How many inputs of the matrix one of them is."""
        raise NotImplementedError

    def _scores(self, edition: Edition, drive: Drive) -> list[list[float]]:
        """Of each layer."""
        scores: list[list[float]] = []

        def look(visit: Visit) -> None:
            if visit.stage.layer is not None:
                scores.append(self._scored(visit, edition).tolist())

        observe(edition, drive, look, f"scoring {self}")
        return scores

    def _scored(self, visit: Visit, edition: Edition) -> NDArray[np.float64]:
        assert visit.stage.layer is not None
        name = self.reader(edition, visit.stage.layer)
        moments = visit.moments.get(name)
        if moments is None:
            raise NumericError(f"{name}: its inputs are not finite, so {self} cannot be scored")
        return scores_of(visit.dense(name), moments, self.each(edition))

    def _refitted(self, edition: Edition, drive: Drive, plan: Plan) -> Edition:
        def visit(visit: Visit) -> None:
            number = visit.stage.layer
            if number is None:
                return
            name = self.reader(edition, number)
            kept = self.kept_inputs(edition, plan.layers[number])
            moments = visit.moments.get(name)
            weight = visit.dense(name)
            if moments is None or len(kept) == weight.shape[1]:
                return
            try:
                visit.put_dense(name, refitted(weight, moments.hessian, kept, self.damping))
            except NumericError as error:
                visit.note(name, f"not refitted: {error}")

        return stream(edition, drive, visit, inputs="now", label=f"refitting after {self}")


@dataclass(frozen=True, kw_only=True)
class DropNeurons(DropInputs):
    """Neurons of the MLPs; by default a multiple of 32 stays, which quantized groups need."""

    multiple: int = 32

    def __str__(self) -> str:
        return "neurons"

    def count(self, layer: Layer) -> int:
        """Neurons."""
        return len(layer.neurons)

    def with_kept(self, layer: Layer, kept: Kept) -> Layer:
        """Fewer neurons."""
        return replace(layer, neurons=layer.neurons[kept])

    def reader(self, edition: Edition, layer: int) -> str:
        """The down-projection."""
        return down_weight(edition.graph, layer)

    def kept_inputs(self, edition: Edition, layer: Layer) -> Kept:
        """Its inputs are the neurons."""
        return layer.neurons

    def each(self, edition: Edition) -> int:
        """One input each."""
        return 1


@dataclass(frozen=True, kw_only=True)
class DropHeads(DropInputs):
    """Key/value heads, each with the query heads that read it."""

    def __str__(self) -> str:
        return "heads"

    def count(self, layer: Layer) -> int:
        """Key/value heads."""
        return len(layer.kv_heads)

    def with_kept(self, layer: Layer, kept: Kept) -> Layer:
        """Fewer heads."""
        return replace(layer, kv_heads=layer.kv_heads[kept])

    def reader(self, edition: Edition, layer: int) -> str:
        """The output projection."""
        return output_weight(edition.graph, layer)

    def kept_inputs(self, edition: Edition, layer: Layer) -> Kept:
        """The channels of the query heads that stay."""
        return channels_of(layer.kv_heads, self.each(edition))

    def each(self, edition: Edition) -> int:
        """All channels of the query heads of one group."""
        attention = edition.graph.attentions[0]
        return attention.heads // attention.kv_heads * attention.head_dim


def scores_of(weight: F32, moments: Moments, each: int) -> NDArray[np.float64]:
    """tr(W_c H_cc W_cᵀ) for every run c of `each` consecutive inputs."""
    if each == 1:
        power = moments.power.astype(np.float64)
        return np.asarray(np.square(weight, dtype=np.float64).sum(axis=0) * power)
    found = []
    for start in range(0, weight.shape[1], each):
        part = slice(start, start + each)
        columns = weight[:, part]
        found.append(float(np.vdot(columns @ moments.hessian[part, part], columns)))
    return np.array(found)


def choose(
    scores: Sequence[NDArray[np.float64]], share: float, scope: Scope, multiple: int
) -> list[Kept]:
    """The indices that stay in each layer, ascending; at least `multiple` (or all) in each.

    In the scope of the model, scores count relative to their layer's sum: residual streams grow.
    """
    if scope == "layer":
        keep = [len(layer) - int(len(layer) * share) for layer in scores]
    else:
        relative = [layer / max(layer.sum(), 1e-30) for layer in scores]
        everything = np.sort(np.concatenate(relative))
        bar = everything[min(len(everything) - 1, int(len(everything) * share))]
        keep = [int((layer >= bar).sum()) for layer in relative]
    kept = []
    for layer, count in zip(scores, keep, strict=True):
        rounded = min(len(layer), max(1, -(-count // multiple)) * multiple)
        kept.append(np.sort(np.argsort(-layer, kind="stable")[:rounded]))
    return kept


def refitted(weight: F32, hessian: F32, kept: Kept, damping: float) -> F32:
    """W' with zeros where inputs go and W H_{:,k} H_{kk}⁻¹ where they stay, float32 [O, I]."""
    inner = hessian[np.ix_(kept, kept)].astype(np.float64)
    inner[np.diag_indices_from(inner)] += damping * max(float(np.diagonal(inner).mean()), 1e-30)
    wanted = weight.astype(np.float64) @ hessian[:, kept]
    wanted += damping * max(float(np.diagonal(hessian)[kept].mean()), 1e-30) * weight[:, kept]
    try:
        solved = cho_solve(cho_factor(inner, lower=True), wanted.T).T
    except LinAlgError:
        raise NumericError("the moments of what remains cannot be factored") from None
    result = np.zeros_like(weight)
    result[:, kept] = solved
    return result

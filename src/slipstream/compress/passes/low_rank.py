"""Matrices in two factors, W ≈ B · A, of the rank that loses least on the calibration inputs.

SVD-LLM, Wang et al. 2024, https://arxiv.org/abs/2403.07378: with H = S Sᵀ, the truncated singular
values of W S are exactly what the outputs lose, ‖(W - W') X‖². Then B = U √Σ and A = √Σ Vᵀ S⁻¹.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cholesky, solve_triangular, svd

from slipstream.compress.moments import Moments
from slipstream.compress.passes.rounding import selected
from slipstream.compress.store import overlay
from slipstream.compress.stream import stream
from slipstream.compress.work import Drive, Edition, Note, Visit, roles_of
from slipstream.errors import NumericError, UnsupportedError
from slipstream.formats.tensor import DenseTensor, Tensor
from slipstream.models.adapted import factor_names
from slipstream.models.registry import blueprint_of

F32 = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class LowRank:
    """share: of the matrix's numbers that its factors may have; multiple: of the rank."""

    select: tuple[str, ...] = ("linear",)
    share: float = 0.5
    multiple: int = 32
    damping: float = 0.001

    @property
    def calibrated(self) -> bool:
        """By H."""
        return True

    def run(self, edition: Edition, drive: Drive) -> Edition:
        """Every selected matrix; later stages see the factored ones."""
        after = stream(edition, drive, self.visit, inputs="now", label="factoring")
        ranks = {}
        for name in self._chosen(edition):
            first = factor_names(name)[0]
            if first in after.weights:
                ranks[name] = after.weights[first].shape[0]
        whole = [
            Note(name, f"left whole: factors of rank {self.rank(shape)} would be no smaller")
            for name, shape in self._too_small(edition)
        ]
        return factored(replace(after, notes=(*after.notes, *whole)), ranks)

    def outline(self, edition: Edition) -> Edition:
        """Factors of the ranks that will be."""
        ranks = {name: self.rank(edition.weights[name].shape) for name in self._chosen(edition)}
        changed: dict[str, Tensor] = {}
        for name, rank in ranks.items():
            out, width = edition.weights[name].shape
            for factor, shape in zip(factor_names(name), ((rank, width), (out, rank)), strict=True):
                changed[factor] = DenseTensor(np.broadcast_to(np.float32(0), shape))
        return factored(replace(edition, weights=overlay(edition.weights, changed)), ranks)

    def visit(self, visit: Visit) -> None:
        """The selected matrices of one stage."""
        chosen = set(self._chosen(visit.edition))
        for group in visit.groups:
            for name in group.weights:
                if name not in chosen or visit.rounded(name) or name in visit.earlier:
                    continue
                moments = visit.moments.get(name)
                try:
                    self._factor(visit, name, moments)
                except NumericError as error:
                    visit.note(name, f"left whole: {error}")

    def rank(self, shape: tuple[int, ...]) -> int:
        """The largest multiple whose factors have no more numbers than the share; one at least."""
        out, width = shape
        most = int(self.share * out * width / (out + width))
        return max(self.multiple, most - most % self.multiple)

    def _chosen(self, edition: Edition) -> list[str]:
        """UnsupportedError if no matrix becomes smaller."""
        small = {name for name, _ in self._too_small(edition)}
        chosen = [name for name, _ in self._named(edition) if name not in small]
        if not chosen:
            raise UnsupportedError(
                f"low_rank: no selected matrix becomes smaller with a share of {self.share:g} and "
                f"a rank that is a multiple of {self.multiple}: lower one of them"
            )
        return chosen

    def _too_small(self, edition: Edition) -> list[tuple[str, tuple[int, ...]]]:
        """Those whose factors would have as many numbers."""
        return [
            (name, shape)
            for name, shape in self._named(edition)
            if self.rank(shape) * sum(shape) >= math.prod(shape)
        ]

    def _named(self, edition: Edition) -> list[tuple[str, tuple[int, ...]]]:
        """What `select` names, with its shape."""
        if not 0 < self.share < 1 or self.multiple < 1:
            raise UnsupportedError("low_rank: share must be in 0 … 1, and multiple above 0")
        return [
            (name, edition.weights[name].shape)
            for name, parts in roles_of(edition.graph).items()
            if selected(self.select, name, parts) and "embedding" not in parts and "[" not in name
        ]

    def _factor(self, visit: Visit, name: str, moments: Moments | None) -> None:
        if moments is None:
            raise NumericError("there is no calibration")
        weight = visit.dense(name)
        a, b = factor(weight, moments.hessian, self.rank(weight.shape), self.damping)
        for part, values in zip(factor_names(name), (a, b), strict=True):
            visit.put(part, DenseTensor(values))
        visit.put(name, DenseTensor(b @ a))


def factor(weight: F32, hessian: F32, rank: int, damping: float = 0.001) -> tuple[F32, F32]:
    """A float32 [rank, I] and B [O, rank]; NumericError if H cannot be factored."""
    damped = hessian.astype(np.float64)
    added = damping * max(float(np.diagonal(damped).mean()), 1e-30)
    damped[np.diag_indices_from(damped)] += added
    try:
        s = cholesky(damped, lower=True)
    except LinAlgError:
        raise NumericError("the second moments of its inputs cannot be factored") from None
    u, sigma, v = svd(weight @ s, full_matrices=False)
    root = np.sqrt(sigma[:rank])
    a = solve_triangular(s, (root[:, None] * v[:rank]).T, lower=True, trans="T").T
    return np.ascontiguousarray(a, np.float32), np.ascontiguousarray(u[:, :rank] * root, np.float32)


def factored(edition: Edition, ranks: dict[str, int]) -> Edition:
    """The edition whose config and graph have two linears for each of those matrices."""
    section = dict(edition.config.get("slipstream") or {})
    known = dict(section.get("low_rank") or {})
    config = {**edition.config, "slipstream": {**section, "low_rank": {**known, **ranks}}}
    return replace(edition, config=config, graph=blueprint_of(config).graph)

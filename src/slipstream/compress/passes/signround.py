"""Learned rounding: signed gradient descent on how weights round, and on the spans they fill.

SignRound, Cheng et al. 2023, https://arxiv.org/abs/2309.05516, with its symbols, layer by layer:

    q = clip(⌊W / s + V⌉ + z),  s = (α · max - β · min) / (2^bits - 1),  V in [-½, ½], α, β near 1

are moved by the sign of the gradient of ‖(W - Q) X‖² = tr(D H Dᵀ), which the second moments H give
in closed form: ∂/∂Q = -2 D H. Rounding passes gradients straight through where nothing is clipped.
The step falls linearly from 2 / steps to 0, and every row keeps the best that it has met. The
authors descend on the output of a block, through its nonlinearities: ``scope = "block"`` does so,
with torch (`compress.training.block_rounding`).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from slipstream.compress.moments import Moments
from slipstream.compress.passes.grid import Grid, fit_grid, from_codes, inverse_of, to_storage
from slipstream.compress.passes.quantizers import hessian_of, zeros_of
from slipstream.compress.passes.rounding import Rounding
from slipstream.compress.passes.trained import require_torch
from slipstream.compress.stream import stream
from slipstream.compress.work import Drive, Edition, Visit
from slipstream.errors import NumericError, UnsupportedError
from slipstream.formats.tensor import Affine, AffineTensor, Tensor

F32 = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class SignRound(Rounding):
    """Learned rounding.

    steps  of signed gradient descent
    scope  ``layer``: by each layer's own output error, without torch; ``block``: all linears of a
           block together, by the error of what leaves it, with torch
    batch  tokens that one step reads, in the scope of a block
    """

    steps: int = 100
    scope: Literal["layer", "block"] = "layer"
    batch: int = 2048
    seed: int = 0

    @property
    def calibrated(self) -> bool:
        """By H, or by the rows that enter a block."""
        return True

    def run(self, edition: Edition, drive: Drive) -> Edition:
        """Every selected weight of every stage, in order."""
        self._check()
        if self.scope == "layer":
            return super().run(edition, drive)
        require_torch()
        assert drive.chunks is not None, "a calibrated pass needs a text"
        length = drive.chunks.shape[1]

        def visit(visit: Visit) -> None:
            if visit.stage.layer is not None:
                self._learn_block(visit, length)
            self.visit(visit)  # what is left: embedding, head, what fits no group

        return stream(edition, drive, visit, inputs="now", label="rounding blocks")

    def outline(self, edition: Edition) -> Edition:
        """The formats that weights will have."""
        self._check()
        return super().outline(edition)

    def round(self, weight: F32, moments: Moments | None, format: Affine) -> AffineTensor:
        """V, α and β by descent."""
        return learn_rounding(weight, hessian_of(moments), format, self.steps)

    def _learn_block(self, visit: Visit, length: int) -> None:
        """The block's matrices, unless its answers overflow: then they are rounded one by one."""
        from slipstream.compress.training.block_rounding import (  # noqa: PLC0415  torch
            learn_block,
        )

        formats = {}
        for group in visit.groups:
            for name in group.weights:
                width = visit.tensor(name).shape[1]
                fits = width % 16 == 0 and name not in visit.earlier
                if fits and self.takes(visit, name) and _finite(visit.tensor(name)):
                    formats[name] = self.format_for(width)
        if not formats:
            return
        try:
            learned = learn_block(self, visit, formats, length)
        except NumericError as error:
            visit.note(visit.stage.name, f"rounded layer by layer: {error}")
            return
        for name, tensor in learned.items():
            visit.put(name, tensor)

    def _check(self) -> None:
        if self.zero == "minimum":
            raise UnsupportedError(
                "signround takes symmetric or zero_point formats, not float minimums"
            )
        if self.steps < 1 or self.batch < 1 or self.seed < 0:
            raise UnsupportedError("signround: steps and batch are above 0, and seed not below")


_SPANS = (0.5, 1.1)  # where α and β stay: minmax spans, shrunk or a little wider
_PIECE_BYTES = 1 << 20  # of one temporary, of which there are a dozen
_ROWS_LEAST = 256  # learned at a time: each step reads all of H


def _finite(tensor: Tensor) -> bool:
    """Else it is named and left as stored, when its turn comes."""
    return bool(np.isfinite(tensor.dequantize()).all())


@dataclass
class _State:
    """What is learned for some rows: V [R, G, N], and α, β [R, G]."""

    shift: F32
    alpha: F32
    beta: F32

    def step(self, gradient: F32, by_scale: F32, spans: tuple[F32, F32], rate: float) -> None:
        """One signed step each; what left its range returns to the border."""
        high, low = spans
        self.shift -= np.float32(rate) * np.sign(gradient)
        np.clip(self.shift, -0.5, 0.5, out=self.shift)
        self.alpha -= np.float32(rate) * np.sign(by_scale * high)
        self.beta -= np.float32(rate) * np.sign(by_scale * low)
        np.clip(self.alpha, *_SPANS, out=self.alpha)
        np.clip(self.beta, *_SPANS, out=self.beta)


@dataclass
class _Best:
    """Codes and grid of the least loss that each row has met."""

    loss: F32  # [R]
    codes: F32  # [R, G, N]
    scale: F32  # [R, G], as stored
    zero: F32

    def offer(self, loss: F32, codes: F32, scale: F32, zero: F32) -> None:
        """Takes the rows that became better."""
        better = loss < self.loss
        self.loss[better] = loss[better]
        self.codes[better], self.scale[better] = codes[better], scale[better]
        self.zero[better] = zero[better]


def learn_rounding(weight: F32, hessian: F32, format: Affine, steps: int = 100) -> AffineTensor:
    """float32 [O, I], H [I, I] → codes and scales, after `steps` steps."""
    grid = fit_grid(weight, format, "minmax")
    codes = np.empty(weight.shape, np.float32)
    at_once = max(_ROWS_LEAST, _PIECE_BYTES // (4 * weight.shape[1]))
    for start in range(0, len(weight), at_once):
        rows = slice(start, start + at_once)
        best = _learn(weight[rows], hessian, format, grid.scale.shape[1], steps)
        codes[rows] = best.codes.reshape(-1, weight.shape[1])
        grid.scale[rows], grid.zero[rows] = best.scale, best.zero
    return grid.tensor(codes.astype(np.uint8 if format.nibbles else np.int8))


def _learn(weight: F32, hessian: F32, format: Affine, groups: int, steps: int) -> _Best:
    """Rows [R, I], all steps. The first candidate is plain rounding to the searched span."""
    grouped = weight.reshape(len(weight), groups, -1)
    start = fit_grid(weight, format, "mse", importance=np.diagonal(hessian))
    best = _start(weight, hessian, start, grouped)
    pruned = zeros_of(weight)
    ones = np.ones(grouped.shape[:2], np.float32)
    state = _State(np.zeros_like(grouped), ones.copy(), ones.copy())
    spans = _spans(grouped, format)
    for number in range(steps):
        scale, zero = _grid(state, spans, format)
        codes, free = _codes(grouped, scale, zero, state.shift, format)
        difference = from_codes(codes, scale[..., None], zero[..., None], format) - grouped
        flat = difference.reshape(weight.shape)
        pull = flat @ hessian  # half of ∂L/∂Q
        best.offer(np.einsum("ri,ri->r", pull, flat), codes, scale, zero)
        pull = pull.reshape(grouped.shape)
        moved = codes - zero[..., None] - free * (grouped * inverse_of(scale)[..., None])
        by_scale = (pull * moved).sum(axis=-1)
        gradient = np.asarray(pull * free * np.sign(scale)[..., None], np.float32)
        if pruned is not None:
            gradient[pruned.reshape(gradient.shape)] = 0  # what was pruned stays zero
        state.step(gradient, by_scale, spans, _rate(number, steps))
    return best


def _rate(number: int, steps: int) -> float:
    """From 1 / steps to 0; all steps together can cross half a code."""
    return (1 - number / steps) / max(1, steps) * 2


def _start(weight: F32, hessian: F32, grid: Grid, grouped: F32) -> _Best:
    codes = grid.codes_of(grouped)
    scale = grid.scale.astype(np.float32)
    values = from_codes(codes, scale[..., None], grid.zero[..., None], grid.format)
    difference = values.reshape(weight.shape) - weight
    loss = np.einsum("ri,ri->r", difference @ hessian, difference)
    return _Best(loss, codes, scale, grid.zero.copy())


def _spans(grouped: F32, format: Affine) -> tuple[F32, F32]:
    """∂s/∂α and ∂s/∂β: what the ends of each group add to its scale, [R, G] each."""
    low, high = format.code_range
    least, most = grouped.min(axis=-1), grouped.max(axis=-1)
    if format.zero != "symmetric":
        levels = np.float32(high - low)
        return np.maximum(most, 0) / levels, -np.minimum(least, 0) / levels
    furthest = np.where(most > -least, most, least)  # the longer arm takes the larger side
    longer = np.float32(low - format.code_of_zero) if format.nibbles else np.float32(high)
    size = furthest if format.nibbles else np.abs(furthest)
    return size / longer, np.zeros_like(size)


def _grid(state: _State, spans: tuple[F32, F32], format: Affine) -> tuple[F32, F32]:
    """Scale and zero [R, G] as they would be stored."""
    scale = state.alpha * spans[0] + state.beta * spans[1]
    scale = to_storage(scale, np.dtype(np.float16)).astype(np.float32)
    if format.zero == "symmetric":
        return scale, np.full(scale.shape, format.code_of_zero, np.float32)
    low, high = format.code_range
    zero = low + state.beta * spans[1] * (high - low) * inverse_of(scale)  # low - β · min / s
    return scale, np.clip(np.rint(zero), low, high).astype(np.float32)


def _codes(grouped: F32, scale: F32, zero: F32, shift: F32, format: Affine) -> tuple[F32, F32]:
    """Codes [R, G, N], and 1 where gradients pass (0 where clipped)."""
    low, high = format.code_range
    raw = np.rint(grouped * inverse_of(scale)[..., None] + shift) + zero[..., None]
    codes = np.clip(raw, low, high)
    return codes, (raw == codes).astype(np.float32)

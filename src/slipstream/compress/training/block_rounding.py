"""Learned rounding of a whole block: its linears move together, by the error of its output.

SignRound as its authors run it (AutoRound), Cheng et al. 2023, https://arxiv.org/abs/2309.05516:

    q = clip(⌊W / s + V⌉ + z),  s = (α · max - β · min) / levels,  V in [-½, ½], α, β near 1

for all linears of a block at once, moved by the sign of the gradient of the mean squared error of
what leaves the block. The inputs are those that the blocks before, already rounded, yield; what is
aimed at is the block's own answer to them. max and min are the ends of the grid that was searched,
so that V = 0, α = β = 1 is rounding to nearest, and the best that all rows together have met is
kept: a block never leaves worse than rounded to nearest. `passes.quantizers.SignRound` calls it.

Legend: N rows, W width, T tokens of a chunk, O outputs, I inputs, G groups of a row.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from slipstream.compress.corpus import Portion
from slipstream.compress.passes.grid import Grid, fit_grid
from slipstream.compress.passes.quantizers import zeros_of
from slipstream.compress.training.fake_quant import straight_through
from slipstream.compress.training.loop import deterministic
from slipstream.compress.training.network import Network
from slipstream.compress.training.parameters import to_numpy, to_torch
from slipstream.compress.work import F32, Visit
from slipstream.errors import NumericError
from slipstream.formats.tensor import Affine, AffineTensor

if TYPE_CHECKING:
    from slipstream.compress.passes.signround import SignRound

SPANS = (0.5, 1.1)  # where α and β stay: the searched span, shrunk or a little wider
LOOKS = 4  # at all rows, besides the one before the first step


class Shifts:
    """One matrix: V, α and β, and what they make of its weights."""

    def __init__(self, weight: F32, grid: Grid) -> None:
        self.grid = grid
        self.weight = torch.from_numpy(weight).reshape(*grid.scale.shape, -1)
        scale = torch.from_numpy(grid.scale.astype(np.float32))
        self.first, self.zero = scale, torch.from_numpy(np.array(grid.zero, np.float32))
        pruned = zeros_of(weight)
        self.pruned = None if pruned is None else torch.from_numpy(pruned).view_as(self.weight)
        self.shift = torch.zeros_like(self.weight).requires_grad_()
        self.alpha = torch.ones_like(scale).requires_grad_()
        self.beta = torch.ones_like(scale).requires_grad_()

    def ends(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Scale and zero [O, G] as they would be stored."""
        form, first, zero = self.grid.format, self.first, self.zero
        low, high = form.code_range
        if form.zero == "symmetric":
            return _stored(self.alpha * first), zero
        most, least = (high - zero) * first, (low - zero) * first
        scale = _stored((self.alpha * most - self.beta * least) / (high - low))
        exact = low - self.beta * least * _inverse(scale)
        return scale, straight_through(exact, exact.round()).clamp(low, high)

    def codes(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Codes [O, G, I / G], their scale and zero."""
        scale, zero = self.ends()
        moved = self.weight * _inverse(scale)[..., None] + self.shift
        raw = straight_through(moved, moved.round()) + zero[..., None]
        return raw.clamp(*self.grid.format.code_range), scale, zero

    def values(self) -> torch.Tensor:
        """float32 [O, I]."""
        codes, scale, zero = self.codes()
        return ((codes - zero[..., None]) * scale[..., None]).reshape(len(self.weight), -1)

    def step(self, rate: float) -> None:
        """One signed step; what leaves its range returns to the border."""
        if self.pruned is not None and self.shift.grad is not None:
            self.shift.grad[self.pruned] = 0  # what was pruned stays zero
        with torch.no_grad():
            for moved, ends in ((self.shift, (-0.5, 0.5)), (self.alpha, SPANS), (self.beta, SPANS)):
                if moved.grad is not None:
                    moved.sub_(rate * moved.grad.sign()).clamp_(*ends)
                    moved.grad = None

    def tensor(self) -> AffineTensor:
        """As it is stored."""
        with torch.no_grad():
            codes, scale, zero = self.codes()
        kind = np.uint8 if self.grid.format.nibbles else np.int8
        flat = to_numpy(codes.reshape(len(self.weight), -1)).astype(kind)
        stored = to_numpy(scale).astype(self.grid.scale.dtype)
        return Grid(self.grid.format, stored, to_numpy(zero)).tensor(flat)


@dataclass(frozen=True)
class Lesson:
    """What a block is to do: rows that enter, float32 [N, W], and what it made of them before."""

    network: Network
    visit: Visit
    entering: torch.Tensor
    wanted: torch.Tensor
    length: int  # T

    def error(self, chunks: Sequence[int]) -> torch.Tensor:
        """The mean squared error of what leaves, over some chunks."""
        rows = torch.cat([torch.arange(c * self.length, (c + 1) * self.length) for c in chunks])
        left = run_block(self.network, self.visit, self.entering[rows], self.length)
        return torch.mean(torch.square(left - self.wanted[rows]))

    def whole_error(self, at_once: int) -> float:
        """The same over all chunks, without gradients."""
        count = len(self.entering) // self.length
        with torch.no_grad():
            parts = [range(i, min(i + at_once, count)) for i in range(0, count, at_once)]
            return sum(float(self.error(part)) * len(part) for part in parts) / count


def learn_block(
    options: "SignRound", visit: Visit, formats: Mapping[str, Affine], length: int
) -> dict[str, AffineTensor]:
    """The named matrices of the visited block on their formats. `length` is T.

    NumericError where the block's answers are not finite.
    """
    assert visit.rows is not None, "a block is learned on the rows that enter it"
    weights = {name: to_torch(visit.tensor(name)) for name in visit.stage.weights}
    shifts = {
        name: Shifts(to_numpy(weights[name]), fit_grid(to_numpy(weights[name]), form))
        for name, form in formats.items()
    }
    count = max(1, options.batch // length)
    before = Network(visit.edition.graph, lambda names: {name: weights[name] for name in names})
    after = Network(
        visit.edition.graph,
        lambda names: {n: shifts[n].values() if n in shifts else weights[n] for n in names},
    )
    with deterministic(options.seed):
        entering = torch.from_numpy(np.array(visit.rows, np.float32))
        wanted = _answers(before, visit, entering, length, count)
        lesson = Lesson(after, visit, entering, wanted, length)
        return _descend(options, lesson, shifts, count)


def run_block(network: Network, visit: Visit, rows: torch.Tensor, length: int) -> torch.Tensor:
    """What leaves the block, [N, W]: every `length` rows are a text of their own."""
    starts = np.arange(0, len(rows) + 1, length, dtype=np.int32)
    portion = Portion(np.arange(len(rows), dtype=np.int32), starts)
    return network.apply_stage(visit.stage, portion, rows)[0]


def _descend(
    options: "SignRound", lesson: Lesson, shifts: Mapping[str, Shifts], count: int
) -> dict[str, AffineTensor]:
    """All steps, with a look at all rows now and then; the best that was seen."""
    chunks = len(lesson.entering) // lesson.length
    random = np.random.default_rng((options.seed, lesson.visit.stage.layer or 0))
    best = {name: one.tensor() for name, one in shifts.items()}
    least = lesson.whole_error(count)
    if not np.isfinite(least):
        raise NumericError("what leaves the block is not finite")
    every = max(1, options.steps // LOOKS)
    for number in range(options.steps):
        chosen = random.choice(chunks, min(count, chunks), replace=False)
        lesson.error(chosen.tolist()).backward()  # type: ignore[no-untyped-call]
        for one in shifts.values():
            one.step((1 - number / options.steps) * 2 / options.steps)
        if (number + 1) % every == 0 or number + 1 == options.steps:
            error = lesson.whole_error(count)
            if error < least:
                least, best = error, {name: one.tensor() for name, one in shifts.items()}
    return best


def _answers(
    network: Network, visit: Visit, entering: torch.Tensor, length: int, count: int
) -> torch.Tensor:
    """What the block makes of all rows, `count` chunks at a time."""
    with torch.no_grad():
        parts = torch.split(entering, count * length)
        return torch.cat([run_block(network, visit, part, length) for part in parts])


def _stored(exact: torch.Tensor) -> torch.Tensor:
    """The value that float16 has, with the gradient of the exact one."""
    return straight_through(exact, exact.detach().half().float())


def _inverse(scale: torch.Tensor) -> torch.Tensor:
    """1 / scale, and 0 where the scale is."""
    safe = torch.where(scale == 0, torch.ones_like(scale), scale)
    return torch.where(scale == 0, torch.zeros_like(scale), 1 / safe)

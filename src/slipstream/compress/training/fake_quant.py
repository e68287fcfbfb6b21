"""Weights that are rounded on the way forward and move as if they were not.

Straight-through (Bengio et al. 2013) with learned steps, LSQ (Esser et al. 2019,
https://arxiv.org/abs/1902.08153). With u = w / s + z, a weight becomes s · (round(clip(u)) - z);
rounding passes gradients on as they are, so

    ∂/∂w = 1 within the range, else 0
    ∂/∂s = round(u) - u within the range, else clip(u) - z

The step is s = s₀ (1 + δ), δ being learned, rounded to float16 on the way: what the loss sees is
bit for bit what is stored. Legend: O outputs, I inputs, G groups of a row.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from slipstream.compress.passes.grid import Grid
from slipstream.compress.training.parameters import Parameters, to_numpy
from slipstream.errors import UnsupportedError
from slipstream.formats.tensor import Affine, AffineTensor, Tensor


def straight_through(exact: torch.Tensor, rounded: torch.Tensor) -> torch.Tensor:
    """The value of the second with the gradient of the first."""
    return exact + (rounded - exact).detach()


def fake_quantize(
    weight: torch.Tensor, step: torch.Tensor, zero: torch.Tensor, format: Affine
) -> torch.Tensor:
    """float32 [O, I] on the grid of `step` and `zero` [O, G]; a group of step 0 becomes 0."""
    u = _codes(weight, step, zero)
    clipped = u.clamp(*format.code_range)
    rounded = straight_through(clipped, clipped.round())
    return ((rounded - zero[..., None]) * step[..., None]).reshape(weight.shape)


def codes_of(
    weight: torch.Tensor, step: torch.Tensor, zero: torch.Tensor, format: Affine
) -> np.ndarray:
    """The codes [O, I] that `fake_quantize` rounds to."""
    codes = _codes(weight, step, zero).clamp(*format.code_range).round()
    kind = np.uint8 if format.nibbles else np.int8
    return to_numpy(codes.reshape(weight.shape)).astype(kind)


def _codes(weight: torch.Tensor, step: torch.Tensor, zero: torch.Tensor) -> torch.Tensor:
    """u = w / s + z, [O, G, I / G]."""
    safe = torch.where(step == 0, torch.ones_like(step), step)
    inverse = torch.where(step == 0, torch.zeros_like(step), 1 / safe)
    grouped = weight.float().reshape(*step.shape, -1)
    return grouped * inverse[..., None] + zero[..., None]


class Rounded:
    """What another set of parameters gives, with chosen matrices on grids of learned steps.

    grids  by weight; where learned is False they stay as they are (plain straight-through)
    """

    def __init__(
        self, inner: Parameters, grids: Mapping[str, Grid], *, learned: bool, device: Any
    ) -> None:
        self.inner = inner
        self.grids = grids
        self.first = {n: _on(g.scale, device) for n, g in grids.items()}
        self.zeros = {n: _on(g.zero, device) for n, g in grids.items()}
        self.deltas = {
            name: torch.nn.Parameter(torch.zeros_like(first))
            for name, first in self.first.items()
            if learned
        }

    def trained(self) -> dict[str, torch.nn.Parameter]:
        """Those of the inner set, and the steps."""
        steps = {f"{name}.step": delta for name, delta in self.deltas.items()}
        return {**self.inner.trained(), **steps}

    def step(self, name: str) -> torch.Tensor:
        """[O, G], as float16 has it."""
        first = self.first[name]
        if name not in self.deltas:
            return first
        exact = first * (1 + self.deltas[name])
        return straight_through(exact, exact.detach().half().float())

    def values(self, names: Sequence[str]) -> dict[str, torch.Tensor]:
        """Rounded where there is a grid."""
        return {
            name: fake_quantize(value, self.step(name), self.zeros[name], self.grids[name].format)
            if name in self.grids
            else value
            for name, value in self.inner.values(names).items()
        }

    def tensors(self) -> dict[str, Tensor]:
        """Codes and steps where there is a grid; what the inner set changed elsewhere."""
        found = {n: t for n, t in self.inner.tensors().items() if n not in self.grids}
        with torch.no_grad():
            for name, grid in self.grids.items():
                weight, step = self.inner.values([name])[name], self.step(name)
                codes = codes_of(weight, step, self.zeros[name], grid.format)
                scale = to_numpy(step).astype(grid.scale.dtype)
                found[name] = replace(grid, scale=scale).tensor(codes)
        return found


def grid_of(tensor: AffineTensor) -> Grid:
    """The grid that a stored matrix lies on. UnsupportedError for float minimums."""
    kind = tensor.format
    if kind.zero == "minimum":
        raise UnsupportedError("qat trains symmetric and zero_point formats, not minimum")
    scale = tensor.scales.astype(np.float16)
    if tensor.offsets is None:
        return Grid(kind, scale, np.full(scale.shape, kind.code_of_zero, np.float32))
    return Grid(kind, scale, tensor.offsets.astype(np.float32))


def _on(values: np.ndarray, device: Any) -> torch.Tensor:
    return torch.from_numpy(np.array(values, np.float32)).to(device)

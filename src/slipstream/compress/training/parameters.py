"""What is trained of a model: all of its weights, or low-rank changes to its matrices.

A set of parameters gives a network its weights while it runs, and the model its tensors when
training is over. Sets can stand on one another: `fake_quant` rounds what another set gives.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch

from slipstream.compress.work import F32
from slipstream.formats.tensor import DenseTensor, Tensor


class Parameters(Protocol):
    """See the module."""

    def trained(self) -> dict[str, torch.nn.Parameter]:
        """What the optimizer moves, by names that stay the same from run to run."""
        ...

    def values(self, names: Sequence[str]) -> dict[str, torch.Tensor]:
        """Weights by name, made of the parameters as they now are."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """The weights that training changed, as they are to be stored."""
        ...


def to_torch(tensor: Tensor, device: Any = None) -> torch.Tensor:
    """Float32 values of a stored tensor, as a copy that may be changed."""
    return torch.from_numpy(np.array(tensor.dequantize(), np.float32)).to(device)


def to_numpy(values: torch.Tensor) -> F32:
    """Float32 on the CPU."""
    return values.detach().to("cpu", torch.float32).numpy()


def stored_like(values: torch.Tensor, before: Tensor) -> DenseTensor:
    """Dense, in the two bytes that the tensor had if it had two, else in float32."""
    kind = np.dtype(np.float32)
    if isinstance(before, DenseTensor) and before.data.dtype.itemsize == 2:
        kind = before.data.dtype
    return DenseTensor(np.array(to_numpy(values)).astype(kind))


class Frozen:
    """Weights that stay: a teacher's."""

    def __init__(self, weights: Mapping[str, Tensor], names: Sequence[str], device: Any) -> None:
        self.held = {name: to_torch(weights[name], device) for name in names}

    def trained(self) -> dict[str, torch.nn.Parameter]:
        """Nothing."""
        return {}

    def values(self, names: Sequence[str]) -> dict[str, torch.Tensor]:
        """As they are."""
        return {name: self.held[name] for name in names}

    def tensors(self) -> dict[str, Tensor]:
        """Nothing changed."""
        return {}


class Full:
    """Every weight of the graph is a parameter. Shared weights are one parameter."""

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        names: Sequence[str],
        device: Any,
        fixed: frozenset[str] = frozenset(),
    ) -> None:
        self.stored = weights
        moved = [name for name in names if name not in fixed]
        self.held = {name: torch.nn.Parameter(to_torch(weights[name], device)) for name in moved}
        self.fixed = {name: to_torch(weights[name], device) for name in names if name in fixed}

    def trained(self) -> dict[str, torch.nn.Parameter]:
        """All of them but those in `fixed`."""
        return self.held

    def values(self, names: Sequence[str]) -> dict[str, torch.Tensor]:
        """The parameters themselves."""
        return {n: self.held[n] if n in self.held else self.fixed[n] for n in names}

    def tensors(self) -> dict[str, Tensor]:
        """Every weight, in the type that it had; a quantized one is float32 now."""
        return {name: stored_like(value, self.stored[name]) for name, value in self.held.items()}


class LowRank:
    """W + B A for chosen matrices, A [r, I] and B [O, r] trained and W not.

    LoRA, Hu et al. 2021, https://arxiv.org/abs/2106.09685, with its scale folded into B; B begins
    at zero, so the model begins as it was. Changes are merged when training is over.
    """

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        names: Sequence[str],
        chosen: Sequence[str],
        *,
        rank: int,
        seed: int,
        device: Any,
    ) -> None:
        self.stored = weights
        self.held = {name: to_torch(weights[name], device) for name in names}
        self.down: dict[str, torch.nn.Parameter] = {}
        self.up: dict[str, torch.nn.Parameter] = {}
        random = np.random.default_rng(seed)
        for name in chosen:
            out, width = weights[name].shape
            start = random.normal(scale=width**-0.5, size=(rank, width)).astype(np.float32)
            self.down[name] = torch.nn.Parameter(torch.from_numpy(start).to(device))
            self.up[name] = torch.nn.Parameter(torch.zeros(out, rank, device=device))

    def trained(self) -> dict[str, torch.nn.Parameter]:
        """A and B of every chosen matrix."""
        pairs = {f"{name}.down": value for name, value in self.down.items()}
        return pairs | {f"{name}.up": value for name, value in self.up.items()}

    def values(self, names: Sequence[str]) -> dict[str, torch.Tensor]:
        """W + B A, or W."""
        return {
            name: self.held[name] + self.up[name] @ self.down[name]
            if name in self.up
            else self.held[name]
            for name in names
        }

    def tensors(self) -> dict[str, Tensor]:
        """The chosen matrices, changes merged."""
        with torch.no_grad():
            merged = self.values(list(self.up))
        return {name: stored_like(value, self.stored[name]) for name, value in merged.items()}

"""How large the steps are: the learning rate of every update, as a share of its peak."""

import math
from dataclasses import dataclass
from typing import Literal

Shape = Literal["cosine", "linear", "constant", "wsd"]


@dataclass(frozen=True)
class Schedule:
    """Warms up over the first `warmup` updates, then falls in its shape to `floor`.

    cosine    half a wave over what is left
    linear    straight down
    constant  stays at the peak
    wsd       stays at the peak, then straight down over the last fifth (warmup-stable-decay)
    """

    updates: int
    warmup: int = 0
    shape: Shape = "cosine"
    floor: float = 0.1

    def share(self, update: int) -> float:
        """Of the peak, at update 0, 1, …; never zero, never above 1."""
        if update < self.warmup:
            return (update + 1) / (self.warmup + 1)
        done = (update - self.warmup) / max(1, self.updates - self.warmup)
        return self.floor + (1 - self.floor) * self._height(min(1.0, done))

    def _height(self, done: float) -> float:
        match self.shape:
            case "cosine":
                return 0.5 * (1 + math.cos(math.pi * done))
            case "linear":
                return 1 - done
            case "constant":
                return 1.0
            case "wsd":
                return min(1.0, (1 - done) / 0.2)

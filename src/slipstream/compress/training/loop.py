"""The training loop: AdamW, accumulated gradients, snapshots; killed and run again it ends alike.

An update depends on nothing but the parameters, the optimizer's moments and its own number: data
and learning rate are functions of that. So going on from any snapshot repeats the same bits, on the
same machine with the same number of threads.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from slipstream.compress.training.log import Log, open_log
from slipstream.compress.training.schedule import Schedule
from slipstream.compress.training.snapshot import Progress, load_snapshot, save_snapshot
from slipstream.compress.work import Watcher
from slipstream.errors import NumericError

SNAPSHOT = "snapshot.safetensors"


class Task(Protocol):
    """Something to train: its parameters, its loss, and how good it is."""

    def trained(self) -> dict[str, torch.nn.Parameter]:
        """What the optimizer moves."""
        ...

    def loss(self, position: int) -> tuple[torch.Tensor, dict[str, float]]:
        """Of the data at that position: what is differentiated, and its parts in figures."""
        ...

    def measure(self) -> dict[str, float]:
        """Figures on held-out text; nothing where there is none."""
        ...


@dataclass(frozen=True)
class Settings:
    """How long and how fast.

    accumulate  portions whose gradients make one update
    decay       of AdamW, on matrices only
    clip        most length of the whole gradient; 0: any
    bfloat16    products are computed in it (autocast); sums and weights stay float32
    measure     updates between measurements; 0: only at both ends
    save_s      seconds between snapshots
    """

    schedule: Schedule
    rate: float
    accumulate: int = 1
    decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 1.0
    seed: int = 0
    bfloat16: bool = False
    measure: int = 0
    save_s: float = 120.0


@dataclass(frozen=True)
class Where:
    """Files and ears: snapshots in `folder`, figures to `log` (None: nowhere)."""

    folder: Path
    watcher: Watcher
    label: str = "training"
    log: Path | None = None
    clock: Callable[[], float] = time.monotonic


def fit(task: Task, settings: Settings, where: Where) -> list[dict[str, float]]:
    """Trains to the end; returns what was measured: ``{"update": …, "kl": …}`` each.

    NumericError where the loss ceases to be finite, with what to do.
    """
    with deterministic(settings.seed):
        run = _Run(task, settings, where)
        try:
            run.to_the_end()
        finally:
            run.log.close()
    return run.progress.curve


class _Run:
    """A training under way."""

    def __init__(self, task: Task, settings: Settings, where: Where) -> None:
        self.task, self.settings, self.where = task, settings, where
        self.parameters = task.trained()
        self.optimizer = _optimizer(self.parameters, settings)
        where.folder.mkdir(parents=True, exist_ok=True)
        self.path = where.folder / SNAPSHOT
        self.progress: Progress = load_snapshot(self.path, self.parameters, self.optimizer)
        self.log: Log = open_log(where.log, self.progress.updates)
        self.saved_s = where.clock()

    def to_the_end(self) -> None:
        """Update after update, from where the snapshot left off."""
        updates = self.settings.schedule.updates
        advance = self.where.watcher.begin(self.where.label, updates)
        advance(self.progress.updates)
        if not self.progress.curve:
            self._measure()
        while self.progress.updates < updates:
            scalars = self._update(self.progress.updates)
            self.progress.updates += 1
            self.log.write(self.progress.updates, scalars)
            if self._due():
                self._measure()
            if self._save_now():
                save_snapshot(self.path, self.parameters, self.optimizer, self.progress)
                self.saved_s = self.where.clock()
            advance(1)

    def _update(self, number: int) -> dict[str, float]:
        """One step of AdamW; returns its figures."""
        settings = self.settings
        rate = settings.rate * settings.schedule.share(number)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        figures: dict[str, float] = {}
        for part in range(settings.accumulate):
            found = self._backward(number * settings.accumulate + part)
            for name, value in found.items():
                figures[name] = figures.get(name, 0.0) + value / settings.accumulate
        length = torch.nn.utils.clip_grad_norm_(
            self.parameters.values(), settings.clip or float("inf")
        )
        figures["gradient"] = float(length)
        self._check(figures, number)
        self.optimizer.step()
        return {**{f"train/{name}": value for name, value in figures.items()}, "rate": rate}

    def _backward(self, position: int) -> dict[str, float]:
        with self._autocast():
            loss, figures = self.task.loss(position)
        (loss / self.settings.accumulate).backward()  # type: ignore[no-untyped-call]
        return {"loss": float(loss.detach()), **figures}

    def _measure(self) -> None:
        with torch.no_grad(), self._autocast():
            found = self.task.measure()
        if found:
            self.progress.curve.append({"update": self.progress.updates, **found})
            named = {f"held_out/{name}": value for name, value in found.items()}
            self.log.write(self.progress.updates, named)

    def _due(self) -> bool:
        done, every = self.progress.updates, self.settings.measure
        return done == self.settings.schedule.updates or (every > 0 and done % every == 0)

    def _save_now(self) -> bool:
        if self.progress.updates == self.settings.schedule.updates:
            return True
        return self.where.clock() - self.saved_s >= self.settings.save_s

    def _autocast(self) -> torch.autocast:
        device = next(iter(self.parameters.values())).device.type
        return torch.autocast(device, dtype=torch.bfloat16, enabled=self.settings.bfloat16)

    @staticmethod
    def _check(figures: dict[str, float], number: int) -> None:
        wrong = [name for name, value in figures.items() if not abs(value) < float("inf")]
        if wrong:
            raise NumericError(
                f"{wrong[0]} is not finite at update {number + 1}: train with a lower rate, a "
                "longer warmup, or float32"
            )


def _optimizer(
    parameters: dict[str, torch.nn.Parameter], settings: Settings
) -> torch.optim.Optimizer:
    """AdamW (Loshchilov, Hutter 2017); norms, biases and steps of grids do not decay."""
    matrices = [value for value in parameters.values() if value.ndim > 1]
    others = [value for value in parameters.values() if value.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": settings.decay},
        {"params": others, "weight_decay": 0.0},
    ]
    kept = [group for group in groups if group["params"]]
    return torch.optim.AdamW(kept, lr=settings.rate, betas=settings.betas, fused=True)


@contextmanager
def deterministic(seed: int) -> Iterator[None]:
    """Equal runs give equal bits; what torch was set to before is put back."""
    before = torch.are_deterministic_algorithms_enabled()
    memory: Any = torch.utils.deterministic  # typed as a module without its switch
    filling = memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    memory.fill_uninitialized_memory = False
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            yield
    finally:
        torch.use_deterministic_algorithms(before)
        memory.fill_uninitialized_memory = filling

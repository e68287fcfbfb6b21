"""What all passes that train share: their options, and what is refused before torch is loaded.

The work is done in `compress.training`, which needs torch and is imported only when such a pass
runs; a recipe is read, checked and outlined without it.
"""

import math
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

from slipstream.compress.work import Drive, Edition
from slipstream.errors import MachineError, UnsupportedError


@dataclass(frozen=True, kw_only=True)
class Trained:
    """Options of every pass that trains.

    tokens         read in all, epochs included
    batch          tokens whose gradients make one update
    rate           peak of the learning rate; `shape` says how it falls, `warmup` is a share
    decay          of AdamW; `clip`: most length of the gradient
    train          full: all weights; lora: low-rank changes of the matrices (`rank`), merged
    precision      bfloat16: products in it, where the machine has such units
    checkpointing  blocks run again in the backward pass: a third more work, far less memory
    held_out       portions kept apart to measure on, every `measure` updates (0: at both ends)
    """

    tokens: int = 100_000
    batch: int = 2048
    rate: float = 1e-4
    shape: Literal["cosine", "linear", "constant", "wsd"] = "cosine"
    warmup: float = 0.05
    decay: float = 0.0
    clip: float = 1.0
    train: Literal["full", "lora"] = "full"
    rank: int = 16
    precision: Literal["float32", "bfloat16"] = "float32"
    checkpointing: bool = False
    device: Literal["cpu", "cuda"] = "cpu"
    held_out: int = 1
    measure: int = 0
    seed: int = 0

    @property
    def calibrated(self) -> bool:
        """It reads the training text, not the calibration text."""
        return False

    @property
    def teacher_on_disk(self) -> bool:
        """Whether what the teacher says is kept, so that it need not run beside the student."""
        return False

    def check(self) -> None:
        """UnsupportedError for options that make no sense."""
        wrong = {
            "tokens": self.tokens < 1,
            "batch": self.batch < 2,
            "rate": not 0 < self.rate < 1,
            "warmup": not 0 <= self.warmup < 1,
            "decay": self.decay < 0,
            "clip": self.clip < 0,
            "rank": self.rank < 1,
            "held_out": self.held_out < 0,
            "measure": self.measure < 0,
            "seed": self.seed < 0,
        }
        for name, is_wrong in wrong.items():
            if is_wrong:
                raise UnsupportedError(f"{name} cannot be {getattr(self, name)} in training")


def require_torch() -> None:
    """MachineError without it."""
    if find_spec("torch") is None:
        raise MachineError("training needs torch: pip install slipstream[train]")


def require_training(edition: Edition, drive: Drive) -> None:
    """The same; UnsupportedError for weights that this recipe has rounded already."""
    require_torch()
    assert drive.corpus is not None, "a trained pass needs a text"
    if edition.rounded:
        raise UnsupportedError(
            "weights that this recipe has quantized would be trained as if they were not: "
            "train before you quantize, or use the method qat"
        )


def check_room(teacher: Edition, student: Edition, options: Trained, memory_bytes: int) -> None:
    """MachineError if weights, gradients, moments and a teacher beside them do not fit."""
    needed = training_bytes(teacher, student, options)
    if needed > memory_bytes:
        raise MachineError(
            f"training needs about {needed / 1e9:.1f} GB and more for activations, and "
            f'{memory_bytes / 1e9:.1f} GB are allowed: raise --memory, train = "lora", or keep '
            "the teacher on disk (top_k = 64)"
        )


def training_bytes(teacher: Edition, student: Edition, options: Trained) -> int:
    """Held at once besides activations: float32 weights, gradients, two moments, the teacher."""
    count = numbers_of(student)
    moved = count if options.train == "full" else count // 20
    beside = 0 if options.teacher_on_disk else numbers_of(teacher)
    return 4 * (count + 3 * moved + beside)


def numbers_of(edition: Edition) -> int:
    """In all weights that the graph reads."""
    return sum(math.prod(edition.weights[name].shape) for name in edition.graph.weight_names())

"""Quantization-aware training: the rounded model learns to say what the original says (QAD).

Weights are rounded on the way forward and move underneath, or their grids alone are learned; see
`compress.training.fake_quant`. What comes out is stored in the same formats as any quantizer's.
"""

from dataclasses import dataclass
from typing import Literal

from slipstream.compress.passes.distill import Distill
from slipstream.compress.passes.rounding import Rounding
from slipstream.compress.passes.trained import require_torch
from slipstream.compress.work import Drive, Edition
from slipstream.errors import UnsupportedError


@dataclass(frozen=True, kw_only=True)
class Qat(Distill, Rounding):
    """Options; see `Distill` for the losses, `Trained` for the rest.

    Matrices that an earlier pass rounded begin on the grid that it chose; others on one fitted to
    them. The rest (norms, embeddings) is trained with them, unless `train` says otherwise.

    train  full: all weights; lora: low-rank changes under the rounding, merged; steps: only grids
    steps  learned (LSQ), or fixed (plain straight-through)
    """

    rate: float = 2e-5
    train: Literal["full", "lora", "steps"] = "full"  # type: ignore[assignment]  # one more
    steps: Literal["learned", "fixed"] = "learned"

    @property
    def calibrated(self) -> bool:
        """It reads the training text, not the calibration text."""
        return False

    @property
    def label(self) -> str:
        """What the progress bar says."""
        return "training rounded weights"

    def check(self) -> None:
        """UnsupportedError also where nothing would be trained, or the format is another kind."""
        super().check()
        if self.train == "steps" and self.steps == "fixed":
            raise UnsupportedError('qat: train = "steps" needs steps = "learned"')
        if self.zero == "minimum":
            raise UnsupportedError("qat trains symmetric and zero_point formats, not minimum")

    def run(self, edition: Edition, drive: Drive) -> Edition:
        """The edition with its matrices rounded, and trained to be so."""
        self.check()
        require_torch()
        assert drive.corpus is not None, "a trained pass needs a text"
        from slipstream.compress.training.rounding import train_rounded  # noqa: PLC0415  torch

        return train_rounded(self, edition, drive)

    def outline(self, edition: Edition) -> Edition:
        """The formats that weights will have."""
        self.check()
        return Rounding.outline(self, edition)

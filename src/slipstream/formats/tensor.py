"""The two ways a matrix is stored: dense, or affine integer codes with a scale per group.

Everything that holds weights (checkpoints, compression, artifacts, backends) exchanges these
records. They carry arrays in one canonical layout; kernels repack them for themselves.

Legend: O outputs (rows), I inputs (columns), G = I / group the groups of one row.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Zero = Literal["symmetric", "zero_point", "minimum"]


@dataclass(frozen=True)
class Affine:
    """Integers with a float scale for each `group` of consecutive inputs (None: a whole row).

    ============  ================  ==========================================
    zero          bits 4, code q    bits 8, code q
    ============  ================  ==========================================
    symmetric     scale · (q - 8)   scale · q
    zero_point    scale · (q - z)   scale · (q - z), z an integer of q's range
    minimum       scale · q + m     scale · q + m, m a float
    ============  ================  ==========================================

    with q in 0…15 for 4 bits and -128…127 for 8. A group is a multiple of 16.
    """

    bits: Literal[4, 8]
    group: int | None
    zero: Zero = "symmetric"


@dataclass(frozen=True)
class DenseTensor:
    """Any shape, one of float32, float16, ml_dtypes.bfloat16 (or an integer dtype, as read)."""

    data: NDArray

    @property
    def shape(self) -> tuple[int, ...]:
        """As the model sees it."""
        return self.data.shape

    @property
    def size_bytes(self) -> int:
        """What it occupies."""
        return self.data.nbytes

    def dequantize(self) -> NDArray[np.float32]:
        """The values in float32 (no copy when they already are)."""
        return self.data.astype(np.float32, copy=False)


@dataclass(frozen=True)
class AffineTensor:
    """A matrix [O, I] of integer codes.

    codes    uint8 [O, I / 2] for 4 bits (the low nibble is the even input); int8 [O, I] for 8
    scales   float16 or float32 [O, G]
    offsets  None (symmetric) · uint8 or int8 [O, G] (zero_point) · float16 or float32 [O, G] (minimum)
    """

    format: Affine
    codes: NDArray
    scales: NDArray
    offsets: NDArray | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(O, I)."""
        rows, width = self.codes.shape
        return rows, width * (8 // self.format.bits)

    @property
    def size_bytes(self) -> int:
        """Codes, scales and offsets."""
        offsets = 0 if self.offsets is None else self.offsets.nbytes
        return self.codes.nbytes + self.scales.nbytes + offsets

    def dequantize(self) -> NDArray[np.float32]:
        """The values in float32, computed in float32: (q - z) · scale, or q · scale + m."""
        from slipstream.formats.affine import dequantize_affine

        return dequantize_affine(self)


Tensor = DenseTensor | AffineTensor

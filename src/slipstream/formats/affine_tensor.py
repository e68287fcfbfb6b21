"""Affine integers: codes of a few bits with a scale, and perhaps an offset, per group.

`formats.tensor` gathers this with the other ways a matrix is stored. One canonical layout; kernels
repack it for themselves.

Legend: O outputs (rows), I inputs (columns), G = I / group the groups of one row.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from slipstream.formats.nibbles import pieces, unpack_nibbles

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

    with q in 0…15 for 4 bits and -128…127 for 8. A group is a multiple of 16. Codes of 3 and 2 bits
    are codes of 4 bits in a smaller range (`code_range`), those of 6 and 5 bits codes of 8 (with a
    minimum they are counted from 0); files and kernels pack them densely.
    """

    bits: Literal[2, 3, 4, 5, 6, 8]
    group: int | None
    zero: Zero = "symmetric"

    @property
    def nibbles(self) -> bool:
        """Whether codes lie two in a byte, as those of 4 bits and fewer do."""
        return self.bits <= 4

    @property
    def code_range(self) -> tuple[int, int]:
        """The least and the greatest code q."""
        if not self.nibbles and (self.bits == 8 or self.zero != "minimum"):
            return -(1 << self.bits - 1), (1 << self.bits - 1) - 1
        if self.zero == "symmetric":
            return 8 - (1 << self.bits - 1), 7 + (1 << self.bits - 1)
        return 0, (1 << self.bits) - 1

    @property
    def code_of_zero(self) -> int:
        """The code that a symmetric format gives back as 0."""
        return 8 if self.nibbles else 0


@dataclass(frozen=True)
class AffineTensor:
    """A matrix [O, I] of integer codes.

    codes    uint8 [O, I / 2] for 4 bits and fewer (the low nibble is the even input); int8 [O, I]
             for more
    scales   float16 or float32 [O, G]
    offsets  None (symmetric) · uint8 or int8 [O, G] (zero_point)
             · float16 or float32 [O, G] (minimum)
    """

    format: Affine
    codes: NDArray
    scales: NDArray
    offsets: NDArray | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(O, I)."""
        rows, width = self.codes.shape
        return rows, width * (2 if self.format.nibbles else 1)

    @property
    def size_bytes(self) -> int:
        """What a kernel reads: codes without gaps, scales and offsets."""
        rows, width = self.shape
        offsets = 0 if self.offsets is None else self.offsets.nbytes
        return rows * -(-width * self.format.bits // 8) + self.scales.nbytes + offsets

    @property
    def file_bytes(self) -> int:
        """The same as a file has them: each row of codes padded to 4 bytes."""
        rows, width = self.shape
        whole, words = -(-width * self.format.bits // 8), -(-width * self.format.bits // 32)
        return self.size_bytes + rows * (4 * words - whole)

    def dequantize(self) -> NDArray[np.float32]:
        """The values [O, I]: (q - z) · scale, or q · scale + m, each operation rounded once.

        With float16 scales the products are exact, so a fused multiply-add gives the same bits.
        """
        values = np.empty(self.shape, np.float32)
        grouped = values.reshape(len(values), self.scales.shape[1], -1)  # [O, G, I / G]
        for rows in pieces(values.shape):
            _decode(self, rows, grouped[rows])
        return values


def _decode(tensor: AffineTensor, rows: slice, values: NDArray[np.float32]) -> None:
    """Writes the values of some rows into float32 [rows, G, N]."""
    kind, codes = tensor.format, tensor.codes[rows]
    if kind.nibbles:
        codes = unpack_nibbles(codes)
    values[:] = codes.reshape(values.shape)
    if kind.zero == "zero_point":
        assert tensor.offsets is not None
        values -= tensor.offsets[rows, :, None].astype(np.float32)
    elif kind.zero == "symmetric" and kind.nibbles:
        values -= np.float32(8)
    with np.errstate(invalid="ignore", over="ignore"):  # damaged scales may be infinite
        values *= tensor.scales[rows, :, None].astype(np.float32)
        if kind.zero == "minimum":
            assert tensor.offsets is not None
            values += tensor.offsets[rows, :, None].astype(np.float32)

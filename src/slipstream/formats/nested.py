"""Affine integers whose scales are integers themselves: GGML's K-quants as their files keep them.

A super-group (256 inputs) has one float16; the scale of each of its groups is that times a small
integer, and so is its minimum. The products are exact in float32, so nothing is lost either way.

Legend: O outputs (rows), I inputs (columns), G groups of one row, S super-groups of one row.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slipstream.formats.affine_tensor import Affine, AffineTensor
from slipstream.formats.scales import wide_scales


@dataclass(frozen=True)
class NestedTensor:
    """A matrix [O, I]: value = supers · scales · (q - z) - minimum_supers · minimums.

    format          ``symmetric`` (z is its code of zero, no minimums) or ``minimum`` (z is 0)
    codes           as in `AffineTensor`
    scales          int8 [O, G]
    supers          float16 [O, S]
    minimums        None, or int8 [O, G]
    minimum_supers  None, or float16 [O, S]
    """

    format: Affine
    codes: NDArray
    scales: NDArray
    supers: NDArray
    minimums: NDArray | None = None
    minimum_supers: NDArray | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(O, I)."""
        rows, width = self.codes.shape
        return rows, width * (2 if self.format.nibbles else 1)

    @property
    def size_bytes(self) -> int:
        """What a kernel reads: codes without gaps, and both levels of scales."""
        rows, width = self.shape
        size = rows * -(-width * self.format.bits // 8) + self.scales.nbytes + self.supers.nbytes
        if self.minimums is not None and self.minimum_supers is not None:
            size += self.minimums.nbytes + self.minimum_supers.nbytes
        return size

    def affine(self) -> AffineTensor:
        """The same values with one float32 scale (and minimum) for each group."""
        offsets = None
        if self.minimums is not None:
            offsets = np.negative(wide_scales(self.minimums, self.minimum_supers))
        return AffineTensor(self.format, self.codes, wide_scales(self.scales, self.supers), offsets)

    def dequantize(self) -> NDArray[np.float32]:
        """The values [O, I], as `affine` has them."""
        return self.affine().dequantize()

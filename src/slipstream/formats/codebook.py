"""Codebooks: four bits choose one of 16 fixed levels, times the scale of a group.

NF4, IQ4_NL and MXFP4 differ in the levels and in how scales are kept. Levels are int8, so that
kernels sum products as integers. Rounding to a codebook is `formats.codebook_round`.

Legend: O outputs (rows), I inputs (columns), G = I / group the groups of one row, S super-groups.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from slipstream.formats.affine_tensor import Affine, AffineTensor
from slipstream.formats.nibbles import pieces, unpack_nibbles
from slipstream.formats.scales import wide_scales

CodebookName = Literal["nf4", "iq4_nl", "mxfp4"]

# nf4     QLoRA's quantiles of a normal distribution (Dettmers et al. 2023), times 124 and rounded:
#         an absmax scale becomes absmax / 124. The rounding is 0.0013 of absmax (root mean square)
#         beside the 0.036 by which NF4 itself errs on normal weights: the error's square grows by
#         0.2 %. 124 errs least among 90 … 127.
# iq4_nl  GGML's levels, spaced as a bell curve wants them; IQ4_XS has the same.
# mxfp4   OCP's e2m1, doubled: its scales are halved to make up for it.
_LEVELS: dict[CodebookName, tuple[int, ...]] = {
    "nf4": (-124, -86, -65, -49, -35, -23, -11, 0, 10, 20, 31, 42, 55, 70, 90, 124),
    "iq4_nl": (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113),
    "mxfp4": (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12),
}
NF4_UNIT = 124  # the level that stands for absmax


@dataclass(frozen=True)
class Codebook:
    """Which levels, and how many consecutive inputs share a scale (None: a whole row)."""

    name: CodebookName
    group: int | None

    bits = 4

    @property
    def levels(self) -> NDArray[np.int8]:
        """What the codes 0 … 15 stand for, int8 [16]."""
        return np.array(_LEVELS[self.name], np.int8)


@dataclass(frozen=True)
class CodebookTensor:
    """A matrix [O, I]: value = scale · levels[code], exact in float32 but for float32 scales.

    codes   uint8 [O, I / 2], the low nibble is the even input
    scales  [O, G]: float16 or float32 · uint8 exponents e of 2^(e - 128) · int8 beside `supers`
    supers  None, or float16 [O, S]: a group's scale is its super-group's times its int8
    """

    format: Codebook
    codes: NDArray
    scales: NDArray
    supers: NDArray | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(O, I)."""
        rows, width = self.codes.shape
        return rows, width * 2

    @property
    def size_bytes(self) -> int:
        """Codes and scales."""
        supers = 0 if self.supers is None else self.supers.nbytes
        return self.codes.nbytes + self.scales.nbytes + supers

    def dequantize(self) -> NDArray[np.float32]:
        """The values [O, I]."""
        values = np.empty(self.shape, np.float32)
        grouped = values.reshape(len(values), self.scales.shape[1], -1)  # [O, G, I / G]
        levels = self.format.levels.astype(np.float32)
        for rows in pieces(values.shape):
            np.take(levels, unpack_nibbles(self.codes[rows]), out=values[rows])
            with np.errstate(invalid="ignore", over="ignore"):  # damaged scales may be infinite
                grouped[rows] *= wide_scales(self.scales, self.supers, rows)[..., None]
        return values

    def affine(self) -> AffineTensor:
        """The same values as 8-bit codes, for those who know no codebooks."""
        codes = np.empty(self.shape, np.int8)
        for rows in pieces(codes.shape):
            np.take(self.format.levels, unpack_nibbles(self.codes[rows]), out=codes[rows])
        scales = self.scales
        if scales.dtype.kind != "f":
            scales = wide_scales(scales, self.supers)
        return AffineTensor(Affine(8, self.format.group), codes, scales)

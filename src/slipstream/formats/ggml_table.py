"""GGML's blocks whose nibbles look up a table of 16 small integers: IQ4_NL, IQ4_XS and MXFP4.

    IQ4_NL  32 values:  d:f16 | 16 bytes of nibbles                          d · table[q]
    IQ4_XS  256 values: d:f16 | top 2 bits | low 4 bits | 128 of nibbles     d·(sc-32) · table[q]
    MXFP4   32 values:  e:uint8, a power of two | 16 bytes of nibbles        2^(e-128) · table[q]

The table's values become int8 codes. Each decoder takes blocks [B, bytes] and writes codes and
scales as the table of `formats.ggml` says.
"""

import numpy as np
from numpy.typing import NDArray

from slipstream.formats.ggml_fields import Bytes, halves, planes

# Fixed by the formats. IQ4: spaced as a bell curve wants them. MXFP4: the values of e2m1, doubled.
_IQ4 = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.int8)
_E2M1 = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.int8)


def iq4_nl(blocks: Bytes, codes: NDArray, scales: NDArray, offsets: NDArray | None) -> None:
    """18 bytes → 32 codes."""
    scales[:] = halves(blocks[:, :2])
    codes[:] = _look_up(_IQ4, blocks[:, 2:])


def iq4_xs(blocks: Bytes, codes: NDArray, scales: NDArray, offsets: NDArray | None) -> None:
    """136 bytes → 256 codes, 8 groups."""
    top = planes(blocks[:, 2:4], 1, 2, 4).reshape(-1, 8)
    low = planes(blocks[:, 4:8], 1, 4, 2).reshape(-1, 8)
    six = (low | (top << np.uint8(4))).view(np.int8) - np.int8(32)
    np.multiply(halves(blocks[:, :2]).astype(np.float32), six, out=scales, dtype=np.float32)
    codes[:] = _look_up(_IQ4, blocks[:, 8:])


def mxfp4(blocks: Bytes, codes: NDArray, scales: NDArray, offsets: NDArray | None) -> None:
    """17 bytes → 32 codes; the scale is half of 2^(e-127), since the table is doubled."""
    exponent = blocks[:, :1].astype(np.uint32)
    subnormal = np.uint32(0x00200000) << np.minimum(exponent, 1)  # 2^-128 and 2^-127
    normal = (np.maximum(exponent, 1) - np.uint32(1)) << np.uint32(23)
    scales[:] = np.where(exponent < 2, subnormal, normal).astype(np.uint32).view(np.float32)
    codes[:] = _look_up(_E2M1, blocks[:, 1:])


def _look_up(table: NDArray[np.int8], field: Bytes) -> NDArray[np.int8]:
    """[B, n · 16] nibbles, split in halves in each 16 bytes → table values [B, n · 32]."""
    return np.take(table, planes(field, 16, 4, 2)).reshape(len(field), -1)

"""GGML's super-blocks of 256 values, whose scales are themselves rounded: Q2_K to Q6_K.

    Q2_K  16 × (sc:4 m:4) | 64 bytes of 2 bits | d:f16 dmin:f16              d·sc · q - dmin·m
    Q3_K  32 bytes of third bits | 64 bytes of 2 bits | 12 of 6 bits | d:f16      d·(sc-32) · q
    Q4_K  d:f16 dmin:f16 | 12 bytes of 6 bits | 128 of nibbles               d·sc · q - dmin·m
    Q5_K  d:f16 dmin:f16 | 12 bytes of 6 bits | 32 of fifth bits | 128       d·sc · q - dmin·m
    Q6_K  128 bytes of nibbles | 64 of 2 bits | 16 × sc:int8 | d:f16         d·sc · (q - 32)

Groups are of 16 values in Q2_K, Q3_K and Q6_K, and of 32 in Q4_K and Q5_K. Each decoder takes
blocks [B, bytes] and writes codes, scales and offsets as the table of `formats.ggml` says.
"""

import numpy as np
from numpy.typing import NDArray

from slipstream.formats.ggml_fields import Bytes, halves, pack_codes, pack_split, planes


def q2_k(blocks: Bytes, codes: NDArray, scales: NDArray, offsets: NDArray | None) -> None:
    """84 bytes → 128 packed codes, 16 groups."""
    assert offsets is not None
    both = blocks[:, :16]
    d, dmin = _wide(blocks[:, 80:82]), _wide(blocks[:, 82:84])
    np.multiply(d, both & np.uint8(15), out=scales, dtype=np.float32)
    _minimums(dmin, both >> np.uint8(4), offsets)
    pack_codes(planes(blocks[:, 16:80], 32, 2, 4), codes)


def q3_k(blocks: Bytes, codes: NDArray, scales: NDArray, offsets: NDArray | None) -> None:
    """110 bytes → 128 packed codes, 16 groups; the third bit says that 4 is not to be taken off."""
    low = planes(blocks[:, 96:104], 8, 4, 2).reshape(-1, 16)
    high = planes(blocks[:, 104:108], 4, 2, 4).reshape(-1, 16)
    six = (low | (high << np.uint8(4))).view(np.int8) - np.int8(32)
    np.multiply(_wide(blocks[:, 108:110]), six, out=scales, dtype=np.float32)
    q = planes(blocks[:, 32:96], 32, 2, 4).reshape(-1, 8, 32)
    q |= planes(blocks[:, :32], 32, 1, 8).reshape(-1, 8, 32) << np.uint8(2)
    q += np.uint8(4)  # stored as q - 8, meant as q - 4
    pack_codes(q, codes)


def q4_k(blocks: Bytes, codes: NDArray, scales: NDArray, offsets: NDArray | None) -> None:
    """144 bytes → 128 packed codes, 8 groups."""
    _scales_and_minimums(blocks, scales, offsets)
    pack_split(blocks[:, 16:], 32, codes)


def q5_k(blocks: Bytes, codes: NDArray, scales: NDArray, offsets: NDArray | None) -> None:
    """176 bytes → 256 codes from 0 to 31, 8 groups."""
    _scales_and_minimums(blocks, scales, offsets)
    q = planes(blocks[:, 48:], 32, 4, 2).reshape(-1, 8, 32)
    q |= planes(blocks[:, 16:48], 32, 1, 8).reshape(-1, 8, 32) << np.uint8(4)
    codes[:] = q.reshape(-1, 256)


def q6_k(blocks: Bytes, codes: NDArray, scales: NDArray, offsets: NDArray | None) -> None:
    """210 bytes → 256 codes from -32 to 31, 16 groups."""
    sc = blocks[:, 192:208].view(np.int8)
    np.multiply(_wide(blocks[:, 208:210]), sc, out=scales, dtype=np.float32)
    q = planes(blocks[:, :128], 64, 4, 2).reshape(-1, 8, 32)
    q |= planes(blocks[:, 128:192], 32, 2, 4).reshape(-1, 8, 32) << np.uint8(4)
    np.subtract(q.reshape(-1, 256).view(np.int8), np.int8(32), out=codes)


def _wide(field: Bytes) -> NDArray[np.float32]:
    """[B, 2] → float32 [B, 1]."""
    return halves(field).astype(np.float32)


def _minimums(dmin: NDArray[np.float32], m: Bytes, offsets: NDArray) -> None:
    """Writes -(dmin · m): what is added where GGML takes away."""
    np.multiply(dmin, m, out=offsets, dtype=np.float32)
    np.negative(offsets, out=offsets)


def _scales_and_minimums(blocks: Bytes, scales: NDArray, offsets: NDArray | None) -> None:
    """The head of Q4_K and Q5_K: 8 scales and 8 minimums of 6 bits in 12 bytes.

    bytes 0…3   low 6 bits: scales 0…3     top 2 bits: top of scales 4…7
    bytes 4…7   low 6 bits: minimums 0…3   top 2 bits: top of minimums 4…7
    bytes 8…11  low nibble: scales 4…7     high nibble: minimums 4…7
    """
    assert offsets is not None
    first, second, third = blocks[:, 4:8], blocks[:, 8:12], blocks[:, 12:16]
    top_of_first = (first >> np.uint8(2)) & np.uint8(0x30)
    top_of_second = (second >> np.uint8(2)) & np.uint8(0x30)
    sc = np.hstack([first & np.uint8(63), (third & np.uint8(15)) | top_of_first])
    m = np.hstack([second & np.uint8(63), (third >> np.uint8(4)) | top_of_second])
    np.multiply(_wide(blocks[:, 0:2]), sc, out=scales, dtype=np.float32)
    _minimums(_wide(blocks[:, 2:4]), m, offsets)

"""GGML's super-blocks of 256 values, whose scales are themselves rounded: Q2_K to Q6_K.

    Q2_K  16 × (sc:4 m:4) | 64 bytes of 2 bits | d:f16 dmin:f16              d·sc · q - dmin·m
    Q3_K  32 bytes of third bits | 64 bytes of 2 bits | 12 of 6 bits | d:f16      d·(sc-32) · q
    Q4_K  d:f16 dmin:f16 | 12 bytes of 6 bits | 128 of nibbles               d·sc · q - dmin·m
    Q5_K  d:f16 dmin:f16 | 12 bytes of 6 bits | 32 of fifth bits | 128       d·sc · q - dmin·m
    Q6_K  128 bytes of nibbles | 64 of 2 bits | 16 × sc:int8 | d:f16         d·sc · (q - 32)

Groups are of 16 values in Q2_K, Q3_K and Q6_K, and of 32 in Q4_K and Q5_K. Each decoder takes
blocks [B, bytes] and writes the arrays of a `NestedTensor`, both levels of scales as stored.
"""

import numpy as np

from slipstream.formats.ggml_fields import Arrays, Bytes, halves, pack_codes, pack_split, planes


def q2_k(blocks: Bytes, into: Arrays) -> None:
    """84 bytes → 128 packed codes, 16 groups."""
    both = blocks[:, :16]
    into["supers"][:] = halves(blocks[:, 80:82])
    into["minimum_supers"][:] = halves(blocks[:, 82:84])
    into["scales"][:] = both & np.uint8(15)
    into["minimums"][:] = both >> np.uint8(4)
    pack_codes(planes(blocks[:, 16:80], 32, 2, 4), into["codes"])


def q3_k(blocks: Bytes, into: Arrays) -> None:
    """110 bytes → 128 packed codes, 16 groups; the third bit says that 4 is not to be taken off."""
    low = planes(blocks[:, 96:104], 8, 4, 2).reshape(-1, 16)
    high = planes(blocks[:, 104:108], 4, 2, 4).reshape(-1, 16)
    into["scales"][:] = (low | (high << np.uint8(4))).view(np.int8) - np.int8(32)
    into["supers"][:] = halves(blocks[:, 108:110])
    q = planes(blocks[:, 32:96], 32, 2, 4).reshape(-1, 8, 32)
    q |= planes(blocks[:, :32], 32, 1, 8).reshape(-1, 8, 32) << np.uint8(2)
    q += np.uint8(4)  # stored as q - 8, meant as q - 4
    pack_codes(q, into["codes"])


def q4_k(blocks: Bytes, into: Arrays) -> None:
    """144 bytes → 128 packed codes, 8 groups."""
    _scales_and_minimums(blocks, into)
    pack_split(blocks[:, 16:], 32, into["codes"])


def q5_k(blocks: Bytes, into: Arrays) -> None:
    """176 bytes → 256 codes from 0 to 31, 8 groups."""
    _scales_and_minimums(blocks, into)
    q = planes(blocks[:, 48:], 32, 4, 2).reshape(-1, 8, 32)
    q |= planes(blocks[:, 16:48], 32, 1, 8).reshape(-1, 8, 32) << np.uint8(4)
    into["codes"][:] = q.reshape(-1, 256)


def q6_k(blocks: Bytes, into: Arrays) -> None:
    """210 bytes → 256 codes from -32 to 31, 16 groups."""
    into["scales"][:] = blocks[:, 192:208].view(np.int8)
    into["supers"][:] = halves(blocks[:, 208:210])
    q = planes(blocks[:, :128], 64, 4, 2).reshape(-1, 8, 32)
    q |= planes(blocks[:, 128:192], 32, 2, 4).reshape(-1, 8, 32) << np.uint8(4)
    np.subtract(q.reshape(-1, 256).view(np.int8), np.int8(32), out=into["codes"])


def _scales_and_minimums(blocks: Bytes, into: Arrays) -> None:
    """The head of Q4_K and Q5_K: 8 scales and 8 minimums of 6 bits in 12 bytes.

    bytes 0…3   low 6 bits: scales 0…3     top 2 bits: top of scales 4…7
    bytes 4…7   low 6 bits: minimums 0…3   top 2 bits: top of minimums 4…7
    bytes 8…11  low nibble: scales 4…7     high nibble: minimums 4…7
    """
    first, second, third = blocks[:, 4:8], blocks[:, 8:12], blocks[:, 12:16]
    top_of_first = (first >> np.uint8(2)) & np.uint8(0x30)
    top_of_second = (second >> np.uint8(2)) & np.uint8(0x30)
    into["scales"][:, :4] = first & np.uint8(63)
    into["scales"][:, 4:] = (third & np.uint8(15)) | top_of_first
    into["minimums"][:, :4] = second & np.uint8(63)
    into["minimums"][:, 4:] = (third >> np.uint8(4)) | top_of_second
    into["supers"][:] = halves(blocks[:, 0:2])
    into["minimum_supers"][:] = halves(blocks[:, 2:4])

"""GGML's blocks whose nibbles look up a table of 16 small integers: IQ4_NL, IQ4_XS and MXFP4.

    IQ4_NL  32 values:  d:f16 | 16 bytes of nibbles                          d · table[q]
    IQ4_XS  256 values: d:f16 | top 2 bits | low 4 bits | 128 of nibbles     d·(sc-32) · table[q]
    MXFP4   32 values:  e:uint8, a power of two | 16 bytes of nibbles        2^(e-128) · table[q]

The tables are those of `formats.codebook`. Each decoder takes blocks [B, bytes] and writes the
arrays of a `CodebookTensor`, codes and scales as stored.
"""

import numpy as np

from slipstream.formats.ggml_fields import Arrays, Bytes, halves, pack_split, planes


def iq4_nl(blocks: Bytes, into: Arrays) -> None:
    """18 bytes → 16 packed codes."""
    into["scales"][:] = halves(blocks[:, :2])
    pack_split(blocks[:, 2:], 16, into["codes"])


def iq4_xs(blocks: Bytes, into: Arrays) -> None:
    """136 bytes → 128 packed codes, 8 groups."""
    top = planes(blocks[:, 2:4], 1, 2, 4).reshape(-1, 8)
    low = planes(blocks[:, 4:8], 1, 4, 2).reshape(-1, 8)
    into["scales"][:] = (low | (top << np.uint8(4))).view(np.int8) - np.int8(32)
    into["supers"][:] = halves(blocks[:, :2])
    pack_split(blocks[:, 8:], 16, into["codes"])


def mxfp4(blocks: Bytes, into: Arrays) -> None:
    """17 bytes → 16 packed codes; the exponent stands for half, since the table is doubled."""
    into["scales"][:] = blocks[:, :1]
    pack_split(blocks[:, 1:], 16, into["codes"])

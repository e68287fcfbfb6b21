"""GGML's simple blocks of 32 values: Q4_0, Q4_1, Q5_0, Q5_1 and Q8_0.

    Q4_0  d:f16 | 16 bytes of nibbles             d · (q - 8)
    Q4_1  d:f16 m:f16 | 16 bytes of nibbles       d · q + m
    Q5_0  d:f16 | 32 fifth bits | 16 bytes        d · (q - 16)
    Q5_1  d:f16 m:f16 | 32 fifth bits | 16 bytes  d · q + m
    Q8_0  d:f16 | 32 int8                         d · q

Each decoder takes blocks [B, bytes] and writes the arrays of an `AffineTensor` in the layout that
the table of `formats.ggml` gives it.
"""

import numpy as np

from slipstream.formats.ggml_fields import Arrays, Bytes, gathered, halves, pack_split, planes


def q4_0(blocks: Bytes, into: Arrays) -> None:
    """18 bytes → 16 packed codes."""
    into["scales"][:] = halves(blocks[:, :2])
    pack_split(blocks[:, 2:], 16, into["codes"])


def q4_1(blocks: Bytes, into: Arrays) -> None:
    """20 bytes → 16 packed codes."""
    into["scales"][:] = halves(blocks[:, :2])
    into["offsets"][:] = halves(blocks[:, 2:4])
    pack_split(blocks[:, 4:], 16, into["codes"])


def q5_0(blocks: Bytes, into: Arrays) -> None:
    """22 bytes → 32 codes from -16 to 15."""
    into["scales"][:] = halves(blocks[:, :2])
    np.subtract(_five_bits(blocks[:, 2:]).view(np.int8), np.int8(16), out=into["codes"])


def q5_1(blocks: Bytes, into: Arrays) -> None:
    """24 bytes → 32 codes from 0 to 31."""
    into["scales"][:] = halves(blocks[:, :2])
    into["offsets"][:] = halves(blocks[:, 2:4])
    into["codes"][:] = _five_bits(blocks[:, 4:])


def q8_0(blocks: Bytes, into: Arrays) -> None:
    """34 bytes → 32 codes."""
    into["scales"][:] = halves(blocks[:, :2])
    into["codes"][:] = gathered(blocks[:, 2:]).view(np.int8)


def _five_bits(field: Bytes) -> Bytes:
    """[B, 4 bytes of fifth bits + 16 bytes of nibbles] → codes 0…31, uint8 [B, 32]."""
    codes = planes(field[:, 4:], 16, 4, 2).reshape(-1, 32)
    codes |= np.unpackbits(field[:, :4], axis=1, bitorder="little") << np.uint8(4)
    return codes

"""GGML's ternary super-blocks of 256 values: TQ1_0 and TQ2_0.

    TQ1_0  32 bytes of 5 trits | 16 of 5 trits | 4 of 4 trits | d:f16     d · (q - 1)
    TQ2_0  64 bytes of 2 bits | d:f16                                     d · (q - 1)

A byte of TQ1_0 is a fraction of 256 written in base three: multiplied by a power of three (and
wrapped), its next digit is the whole part of three times that fraction. Each decoder takes blocks
[B, bytes] and writes the arrays of an `AffineTensor`.
"""

import numpy as np

from slipstream.formats.ggml_fields import Arrays, Bytes, halves, pack_codes, planes

_POWERS = np.array([1, 3, 9, 27, 81], np.uint8).reshape(1, 5, 1)


def tq1_0(blocks: Bytes, into: Arrays) -> None:
    """54 bytes → 128 packed codes of 2 bits."""
    into["scales"][:] = halves(blocks[:, 52:])
    trits = [_trits(blocks[:, :32], 5), _trits(blocks[:, 32:48], 5), _trits(blocks[:, 48:52], 4)]
    into["offsets"][:] = 1
    pack_codes(np.hstack(trits), into["codes"])


def tq2_0(blocks: Bytes, into: Arrays) -> None:
    """66 bytes → 128 packed codes of 2 bits."""
    into["scales"][:] = halves(blocks[:, 64:])
    into["offsets"][:] = 1
    pack_codes(planes(blocks[:, :64], 32, 2, 4), into["codes"])


def _trits(field: Bytes, count: int) -> Bytes:
    """[B, n] → the first `count` digits of each byte, uint8 [B, count · n], first digits first."""
    fractions = field[:, None, :] * _POWERS[:, :count]  # uint8: wraps on purpose
    digits = (fractions.astype(np.uint16) * np.uint16(3)) >> np.uint16(8)
    return digits.astype(np.uint8).reshape(len(field), -1)

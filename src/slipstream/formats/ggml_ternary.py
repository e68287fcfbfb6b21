"""GGML's ternary super-blocks of 256 values: TQ1_0 and TQ2_0.

    TQ1_0  32 bytes of 5 trits | 16 of 5 trits | 4 of 4 trits | d:f16     d · (q - 1)
    TQ2_0  64 bytes of 2 bits | d:f16                                     d · (q - 1)

A byte of TQ1_0 is a fraction of 256 written in base three: multiplied by a power of three (and
wrapped), its next digit is the whole part of three times that fraction. Each decoder takes blocks
[B, bytes] and writes codes and scales as the table of `formats.ggml` says.
"""

import numpy as np
from numpy.typing import NDArray

from slipstream.formats.ggml_fields import Bytes, halves, pack_codes, planes

_POWERS = np.array([1, 3, 9, 27, 81], np.uint8).reshape(1, 5, 1)


def tq1_0(blocks: Bytes, codes: NDArray, scales: NDArray, offsets: NDArray | None) -> None:
    """54 bytes → 128 packed codes."""
    scales[:] = halves(blocks[:, 52:])
    trits = [_trits(blocks[:, :32], 5), _trits(blocks[:, 32:48], 5), _trits(blocks[:, 48:52], 4)]
    _pack(np.hstack(trits), codes)


def tq2_0(blocks: Bytes, codes: NDArray, scales: NDArray, offsets: NDArray | None) -> None:
    """66 bytes → 128 packed codes."""
    scales[:] = halves(blocks[:, 64:])
    _pack(planes(blocks[:, :64], 32, 2, 4), codes)


def _trits(field: Bytes, count: int) -> Bytes:
    """[B, n] → the first `count` digits of each byte, uint8 [B, count · n], first digits first."""
    fractions = field[:, None, :] * _POWERS[:, :count]  # uint8: wraps on purpose
    digits = (fractions.astype(np.uint16) * np.uint16(3)) >> np.uint16(8)
    return digits.astype(np.uint8).reshape(len(field), -1)


def _pack(codes: Bytes, packed: NDArray) -> None:
    """Codes that mean q - 1 are stored as codes that mean q - 8."""
    pack_codes(codes + np.uint8(7), packed)

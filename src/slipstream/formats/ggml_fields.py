"""Reading the fields of GGML blocks: half floats, split nibbles, planes of bits.

The decoders beside this file are written with these few verbs. All take blocks [B, bytes] or parts
of them, and none keeps anything.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Arrays = Mapping[str, NDArray]  # what a decoder fills: the fields of a tensor by name


def halves(field: Bytes) -> NDArray[np.float16]:
    """[B, 2] bytes, not aligned → [B, 1] float16."""
    numbers: NDArray[np.float16] = field.view(np.float16)
    return numbers


def gathered(field: Bytes) -> Bytes:
    """The same bytes [B, 8 · n] without the gaps between blocks.

    Column by column of 8 bytes: numpy copies one long strided column several times faster than many
    short rows (Q4_1's 16 bytes of 20: three times, on Zen 3).
    """
    words = np.empty((len(field), field.shape[1] // 8), np.uint64)
    source = field.view(np.uint64)
    for column in range(words.shape[1]):
        words[:, column] = source[:, column]
    return words.view(np.uint8)


def planes(field: Bytes, width: int, bits: int, count: int) -> Bytes:
    """The `count` planes of `bits` bits of each run of `width` bytes, the lowest bits first.

    [B, n · width] → uint8 [B, n, count, width]: all first planes of a run, then all second ones.
    """
    runs = field.reshape(len(field), -1, 1, width)
    shifts = (np.arange(count, dtype=np.uint8) * np.uint8(bits)).reshape(1, 1, count, 1)
    split: Bytes = runs >> shifts
    split &= np.uint8((1 << bits) - 1)
    return split


def pack_split(field: Bytes, half: int, packed: Bytes) -> None:
    """Nibbles split in halves → neighbours.

    In each run of `half` bytes GGML keeps values 0…half-1 in the low nibbles and the next `half` in
    the high ones; we keep even values low and odd values high. Both fields are [B, n · half].
    """
    pairs = gathered(field).view(np.uint16).reshape(-1)
    low = pairs & np.uint16(0x0F0F)
    low |= low >> np.uint16(4)  # its lower byte: two neighbours
    pairs &= np.uint16(0xF0F0)
    high = pairs >> np.uint16(4)
    high |= pairs >> np.uint16(8)
    out = packed.view(np.uint64).reshape(-1, 2, half // 16)
    for place, neighbours in enumerate((low, high)):
        words = neighbours.astype(np.uint8).view(np.uint64).reshape(-1, half // 16)
        for column in range(half // 16):
            out[:, place, column] = words[:, column]


def pack_codes(codes: Bytes, packed: Bytes) -> None:
    """Codes 0…15, [B, n] in any shape → neighbours in one byte, [B, n / 2]."""
    pairs = codes.reshape(len(codes), -1, 2)
    np.left_shift(pairs[:, :, 1], np.uint8(4), out=packed)
    packed |= pairs[:, :, 0]

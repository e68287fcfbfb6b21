"""Reading the fields of GGML blocks: half floats, split nibbles, planes of bits.

The decoders beside this file are written with these few verbs. All take blocks [B, bytes] or parts
of them, and none keeps anything.
"""

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]


def halves(field: Bytes) -> NDArray[np.float16]:
    """[B, 2n] bytes, not aligned → [B, n] float16."""
    return np.ascontiguousarray(field).view(np.float16)


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
    pairs = np.ascontiguousarray(field).view("<u2").reshape(len(field), -1, half // 2)
    out = packed.reshape(len(field), -1, 2, half // 2)
    out[:, :, 0] = (pairs & np.uint16(0x000F)) | ((pairs >> np.uint16(4)) & np.uint16(0x00F0))
    pairs >>= np.uint16(4)
    out[:, :, 1] = (pairs & np.uint16(0x000F)) | ((pairs >> np.uint16(4)) & np.uint16(0x00F0))


def pack_codes(codes: Bytes, packed: Bytes) -> None:
    """Codes 0…15, [B, n] in any shape → neighbours in one byte, [B, n / 2]."""
    pairs = codes.reshape(len(codes), -1, 2)
    np.left_shift(pairs[:, :, 1], np.uint8(4), out=packed)
    packed |= pairs[:, :, 0]

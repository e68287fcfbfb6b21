"""Two 4-bit codes in a byte, and walking a large matrix a cache-full at a time."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

_PIECE = 1 << 18  # values worked on at a time: temporaries of 1 MiB stay in the second-level cache


def unpack_nibbles(packed: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """uint8 [..., I / 2] → codes 0…15, uint8 [..., I]; the low nibble is the even input."""
    pairs = packed.astype("<u2", order="C")
    pairs |= pairs << np.uint16(4)
    pairs &= np.uint16(0x0F0F)  # lower byte: low nibble, upper byte: high nibble
    return pairs.view(np.uint8)


def pack_nibbles(codes: NDArray) -> NDArray[np.uint8]:
    """Codes 0…15 [..., I], I even → uint8 [..., I / 2], the inverse of `unpack_nibbles`."""
    if codes.shape[-1] % 2:
        raise ValueError(f"an even number of inputs is needed to pack them, not {codes.shape[-1]}")
    codes = codes.astype(np.uint8, copy=False)
    packed = codes[..., 1::2] << np.uint8(4)
    packed |= codes[..., 0::2]
    return packed


def pieces(shape: tuple[int, ...]) -> Iterator[slice]:
    """The rows of a matrix, a cache-full at a time."""
    step = max(1, _PIECE // max(1, shape[1]))
    for start in range(0, shape[0], step):
        yield slice(start, start + step)

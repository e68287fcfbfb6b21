"""Values of any width up to 8 bits, packed without gaps, low bits first: how files store them."""

import numpy as np
from numpy.typing import NDArray


def pack_bits(values: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """uint8 [R, N], each below 2^bits → uint8 [R, ⌈N · bits / 8⌉], the last byte padded with 0."""
    if bits == 8:
        return np.ascontiguousarray(values)
    spread = (values[:, :, None] >> np.arange(bits, dtype=np.uint8)) & np.uint8(1)
    return np.packbits(spread.reshape(len(values), -1), axis=1, bitorder="little")


def unpack_bits(packed: NDArray[np.uint8], bits: int, count: int) -> NDArray[np.uint8]:
    """The first `count` values of each row: the inverse of `pack_bits`."""
    if bits == 8:
        return packed[:, :count]
    single = np.unpackbits(packed, axis=1, count=count * bits, bitorder="little")
    weights = (1 << np.arange(bits)).astype(np.uint8)
    return np.asarray(single.reshape(len(packed), count, bits) @ weights, np.uint8)

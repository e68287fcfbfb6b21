"""The scales of groups, in every form that files keep them in, as float32.

Codebooks and nested integers read theirs with `wide_scales`.

    array             beside it             scale of a group
    ================  ====================  ==============================
    float16, float32  nothing               itself
    uint8  e          nothing               2^(e - 128): half of OCP's e8m0
    int8   s          supers float16 [O,S]  supers · s, exact in float32
    ================  ====================  ==============================

Legend: O outputs, G groups of one row, S super-groups of one row (S divides G).
"""

import numpy as np
from numpy.typing import NDArray


def wide_scales(
    scales: NDArray, supers: NDArray | None = None, rows: slice = slice(None)
) -> NDArray[np.float32]:
    """The scales of some rows, float32 [rows, G]."""
    some = scales[rows]
    if some.dtype == np.uint8:
        return powers_of_two(some)
    if supers is None:
        return some.astype(np.float32)
    each = some.shape[1] // supers.shape[1]
    with np.errstate(invalid="ignore"):  # damaged scales may be infinite
        return some * np.repeat(supers[rows].astype(np.float32), each, axis=1)


def powers_of_two(exponents: NDArray[np.uint8]) -> NDArray[np.float32]:
    """2^(e - 128), subnormal for 0 and 1; 255 gives 2^127, as GGML has it."""
    wide = exponents.astype(np.uint32)
    subnormal = np.uint32(0x00200000) << np.minimum(wide, 1)
    normal = (np.maximum(wide, 1) - np.uint32(1)) << np.uint32(23)
    return np.where(wide < 2, subnormal, normal).astype(np.uint32).view(np.float32)

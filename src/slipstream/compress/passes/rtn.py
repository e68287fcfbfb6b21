"""Round to nearest: each weight to the nearest point of its group's grid, on its own.

Needs no calibration. With ``clip="minmax"`` the result is that of `formats.affine.quantize_affine`;
with ``"mse"`` each group's span is searched for the least squared error.
"""

import numpy as np
from numpy.typing import NDArray

from slipstream.compress.passes.grid import Clip, fit_grid
from slipstream.formats.tensor import Affine, AffineTensor

_ROWS = 4096  # rows rounded at a time: an embedding of 200,000 rows needs no float copy of itself


def round_to_nearest(
    weight: NDArray[np.float32],
    format: Affine,
    clip: Clip = "mse",
    importance: NDArray[np.float32] | None = None,
) -> AffineTensor:
    """float32 [O, I] → codes and float16 scales. ValueError if the group does not divide I.

    importance  float32 [I], optional: how much an error in each input matters
    """
    grid = fit_grid(weight, format, clip, importance=importance)
    codes = np.empty(weight.shape, np.uint8 if format.nibbles else np.int8)
    grouped = weight.reshape(*grid.scale.shape, -1)
    for start in range(0, len(weight), _ROWS):
        rows = slice(start, start + _ROWS)
        part = type(grid)(format, grid.scale[rows], grid.zero[rows])
        codes[rows] = part.codes_of(grouped[rows]).reshape(-1, weight.shape[1])
    return grid.tensor(codes)

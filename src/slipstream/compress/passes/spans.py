"""The inner loops of the search for spans: the ends of each group, the error under each candidate.

`grid` asks. The native kernel tries every candidate while a group lies in the first-level cache;
`reference_errors` says the same in numpy, and stands in where the kernels were not built.

Legend: G groups, N weights of a group, C candidates, K kinds of group: group g counts as g mod K.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from slipstream.backends.native_module import NativeModule, native_module
from slipstream.errors import MachineError
from slipstream.formats.tensor import Affine

F32 = NDArray[np.float32]


def ends_of(values: F32, *, isa: str = "auto") -> tuple[F32, F32]:
    """The least and the greatest of each group: float32 [..., N] → two of [...]."""
    module = _module()
    if module is None or not values.flags.c_contiguous or values.shape[-1] % 16:
        return values.min(axis=-1), values.max(axis=-1)
    ends = np.empty((2, *values.shape[:-1]), np.float32)
    module.span_ends(values.reshape(-1, values.shape[-1]), ends.reshape(2, -1), isa)
    return ends[0], ends[1]


def squared_errors(
    values: F32,
    scales: F32,
    zeros: F32,
    importance: F32 | None,
    format: Affine,
    *,
    isa: str = "auto",
) -> F32:
    """float32 [C, G]: of values [G, N] rounded with scales and zeros [C, G], as `grid.Grid` has
    them. `importance` [K, N] weighs the squares.
    """
    module = _module()
    if module is None:
        return reference_errors(values, scales, zeros, importance, format)
    errors = np.empty(scales.shape, np.float32)
    low, high = format.code_range
    arrays = [np.ascontiguousarray(one, np.float32) for one in (values, scales, zeros)]
    weighing = None if importance is None else np.ascontiguousarray(importance, np.float32)
    minimum = format.zero == "minimum"
    module.span_errors(*arrays, weighing, low, high, minimum, errors, isa)
    return errors


def reference_errors(
    values: F32, scales: F32, zeros: F32, importance: F32 | None, format: Affine
) -> F32:
    """The same in numpy; sums differ in their last bits."""
    pairs = zip(scales, zeros, strict=True)
    return np.stack([_errors(values, s[:, None], z[:, None], importance, format) for s, z in pairs])


def _errors(values: F32, scale: F32, zero: F32, importance: F32 | None, format: Affine) -> F32:
    """float32 [G]. Codes are counted from the zero, which spares two passes over the values."""
    low, high = format.code_range
    if format.zero == "minimum":
        values, zero = values - zero, np.zeros_like(zero)
    inverse = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale != 0)
    error = values * inverse
    np.rint(error, out=error)
    np.clip(error, low - zero, high - zero, out=error)
    error *= scale
    error -= values
    error *= error
    if importance is not None:
        error = error.reshape(-1, *importance.shape) * importance
    return np.asarray(error.sum(axis=-1).ravel())


@lru_cache(maxsize=1)
def _module() -> NativeModule | None:
    """The kernels; None where they were not built."""
    try:
        return native_module()
    except MachineError:
        return None

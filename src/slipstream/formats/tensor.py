"""The ways a matrix is stored: dense, affine integers, a codebook, nested scales.

Everything that holds weights (checkpoints, compression, artifacts, backends) exchanges these
records. They carry arrays in one canonical layout, one row of the array for each output; kernels
repack them for themselves.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from slipstream.formats.affine_tensor import Affine, AffineTensor, Zero
from slipstream.formats.codebook import Codebook, CodebookTensor
from slipstream.formats.nested import NestedTensor

__all__ = [
    "Affine",
    "AffineTensor",
    "Codebook",
    "CodebookTensor",
    "DenseTensor",
    "NestedTensor",
    "Quantized",
    "Tensor",
    "Zero",
    "arrays_of",
    "map_arrays",
    "with_arrays",
]


@dataclass(frozen=True)
class DenseTensor:
    """Any shape, one of float32, float16, ml_dtypes.bfloat16 (or an integer dtype, as read)."""

    data: NDArray

    @property
    def shape(self) -> tuple[int, ...]:
        """As the model sees it."""
        return self.data.shape

    @property
    def size_bytes(self) -> int:
        """What it occupies."""
        return self.data.nbytes

    def dequantize(self) -> NDArray[np.float32]:
        """The values in float32 (no copy when they already are)."""
        return self.data.astype(np.float32, copy=False)


Quantized = AffineTensor | CodebookTensor | NestedTensor
Tensor = DenseTensor | Quantized


Kind = TypeVar("Kind", bound=Tensor)


def arrays_of(tensor: Tensor) -> dict[str, NDArray[Any]]:
    """The arrays of a record by field; what is None is left out."""
    found = {field.name: getattr(tensor, field.name) for field in fields(tensor)}
    return {name: value for name, value in found.items() if isinstance(value, np.ndarray)}


def with_arrays(tensor: Kind, arrays: Mapping[str, NDArray[Any]]) -> Kind:
    """The same record with other arrays in those fields."""
    changed: Any = arrays  # mypy checks replace() per field, which differ by kind
    return replace(tensor, **changed)


def map_arrays(tensor: Kind, change: Callable[[NDArray[Any]], NDArray[Any]]) -> Kind:
    """The same record with every array changed: `lambda array: array[rows]` takes rows."""
    return with_arrays(tensor, {name: change(old) for name, old in arrays_of(tensor).items()})

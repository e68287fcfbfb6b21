"""Quantized folders of other libraries: their parts gathered into tensors that we have kernels for.

GPTQ, AWQ, FP8 and bitsandbytes each store a matrix in several arrays beside one another. A `Codec`
knows which; `ForeignReader` shows `folder` one ``X.weight`` for each, decoded when it is asked for.
Whatever does not fit together is a FileFormatError that names the module.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from slipstream.checkpoint.safetensors import Tensors
from slipstream.errors import FileFormatError
from slipstream.formats.tensor import DenseTensor, Tensor
from slipstream.graph.ops import Activations

FLOATS = (np.dtype(np.float16), np.dtype(np.float32), np.dtype(ml_dtypes.bfloat16))


class Module:
    """The arrays of one quantized module, by their names behind the module's own."""

    def __init__(self, name: str, arrays: Tensors, stored: frozenset[str]) -> None:
        self.name = name
        self._arrays = arrays
        self._stored = stored

    def has(self, part: str) -> bool:
        """Whether the array is there."""
        return f"{self.name}.{part}" in self._stored

    def array(self, part: str, *dtypes: Any, dimensions: int | None = None) -> NDArray:
        """One array, of one of the types and so many dimensions, else FileFormatError."""
        if not self.has(part):
            raise self.damaged(f"its {part} is missing")
        array = self._arrays.array(f"{self.name}.{part}")
        kinds = [np.dtype(dtype) for dtype in dtypes]
        if (kinds and array.dtype not in kinds) or dimensions not in (None, array.ndim):
            raise self.damaged(f"its {part} is {array.dtype} of shape {array.shape}")
        return array

    def scales(self, part: str, shape: tuple[int, ...]) -> NDArray:
        """Finite floats of `shape`, float16 as they are and others in float32."""
        array = self.array(part, *FLOATS)
        if array.shape != shape:
            raise self.damaged(f"its {part} is of shape {array.shape}, not {shape}")
        if array.dtype != np.float16:
            array = array.astype(np.float32)
        if not np.isfinite(array).all():
            raise self.damaged(f"its {part} holds infinities or NaN")
        return array

    def damaged(self, what: str) -> FileFormatError:
        """The error for what does not fit together."""
        return FileFormatError(f"the quantized tensor {self.name!r} is damaged: {what}")


class Codec(Protocol):
    """How one library stores a matrix: `marks` show that a module has one, `parts` belong to it."""

    marks: ClassVar[tuple[str, ...]]
    parts: ClassVar[tuple[str, ...]]

    def decode(self, module: Module) -> Tensor:
        """The matrix [O, I]."""
        ...


class ForeignReader:
    """What `folder.FolderCheckpoint` reads a quantized folder with."""

    def __init__(self, arrays: Tensors, codec: Codec) -> None:
        self._arrays = arrays
        self._codec = codec
        self._stored = frozenset(arrays.names())
        found = {
            name.removesuffix(f".{mark}")
            for name in self._stored
            for mark in codec.marks
            if name.endswith(f".{mark}")
        }
        hidden = {f"{module}.{part}" for module in found for part in codec.parts}
        self._weights = {f"{module}.weight": module for module in found}
        self._names = sorted((self._stored - hidden) | self._weights.keys())

    def names(self) -> Sequence[str]:
        """The tensors as the model knows them."""
        return self._names

    def activations(self) -> Mapping[str, Activations]:
        """None of their own: these layouts say how weights are stored, not how inputs are."""
        return {}

    def tensor(self, name: str) -> Tensor:
        """One tensor; KeyError if there is none."""
        if name not in self._weights:
            return DenseTensor(self._arrays.array(name))
        return self._codec.decode(Module(self._weights[name], self._arrays, self._stored))

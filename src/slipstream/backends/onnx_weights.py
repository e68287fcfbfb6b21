"""Weights as ONNX holds them: integers with DequantizeLinear, beside the model in one data file.

`onnx_write` asks for each matrix by name. Matrices are stored turned, [I, O], which is how
onnxruntime finds 4-bit products that it has kernels for. Values are those of our tensors: scales in
float32, products rounded once.

Legend: O outputs, I inputs, G groups of a row.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from slipstream.formats.codebook import CodebookTensor
from slipstream.formats.nested import NestedTensor
from slipstream.formats.nibbles import pack_nibbles, unpack_nibbles
from slipstream.formats.tensor import AffineTensor, DenseTensor, Tensor

INLINE_BYTES = 1024  # smaller arrays lie in the model file
ALIGNMENT = 64

_DTYPES = {
    np.dtype(np.float32): "FLOAT",
    np.dtype(np.float64): "DOUBLE",
    np.dtype(np.float16): "FLOAT16",
    np.dtype(ml_dtypes.bfloat16): "BFLOAT16",
    np.dtype(np.int8): "INT8",
    np.dtype(np.uint8): "UINT8",
    np.dtype(np.int64): "INT64",
}


@dataclass
class Writer:
    """Nodes and initializers of a graph while they are written; `data` takes the large arrays."""

    onnx: Any  # the package
    weights: Mapping[str, Tensor]
    data: BinaryIO
    location: str
    nodes: list[Any] = field(default_factory=list)
    initializers: list[Any] = field(default_factory=list)
    known: dict[str, str] = field(default_factory=dict)  # what was asked for → the value's name
    count: int = 0

    def op(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        """Appends a node; returns the name of its output, or of its outputs."""
        names = [f"t{self.count + i}" for i in range(outputs)]
        self.count += outputs
        node = self.onnx.helper.make_node(kind, list(inputs), names, f"{kind}_{names[0]}")
        for key, value in attributes.items():
            node.attribute.append(self.onnx.helper.make_attribute(key, value))
        self.nodes.append(node)
        return names[0] if outputs == 1 else names

    def constant(self, value: Any, dtype: Any = np.int64) -> str:
        """An initializer of a few numbers, once for equal ones."""
        array = np.asarray(value, dtype)
        key = f"{array.dtype}{array.shape}{array.tobytes().hex()}"
        if key not in self.known:
            self.known[key] = self.store(f"c{len(self.known)}", array)
        return self.known[key]

    def store(self, name: str, array: NDArray, kind: str | None = None, shape: Any = None) -> str:
        """An initializer; `kind` and `shape` where the array holds them packed."""
        tensor = self.onnx.TensorProto()
        tensor.name = name
        tensor.data_type = getattr(self.onnx.TensorProto, kind or _DTYPES[array.dtype])
        tensor.dims.extend(array.shape if shape is None else shape)
        raw = np.ascontiguousarray(array)
        if raw.nbytes < INLINE_BYTES:
            tensor.raw_data = raw.tobytes()
        else:
            self._append(tensor, raw)
        self.initializers.append(tensor)
        return name

    def _append(self, tensor: Any, raw: NDArray) -> None:
        """At the end of the data file, aligned, with its place noted in the model."""
        self.data.write(bytes(-self.data.tell() % ALIGNMENT))
        place = {"location": self.location, "offset": self.data.tell(), "length": raw.nbytes}
        self.data.write(raw.reshape(-1).view(np.uint8).data)
        tensor.data_location = self.onnx.TensorProto.EXTERNAL
        for key, value in place.items():
            tensor.external_data.add(key=key, value=str(value))

    def vector(self, name: str) -> str:
        """A weight as it is, in float32 (norms, biases)."""
        if name not in self.known:
            self.known[name] = self.store(name, np.array(self.weights[name].dequantize()))
        return self.known[name]

    def matrix(self, name: str) -> str:
        """A matrix in float32, [I, O]."""
        if name not in self.known:
            tensor = _affine_or_dense(self.weights[name])
            if isinstance(tensor, AffineTensor):
                self.known[name] = self._affine(name, tensor)
            else:
                self.known[name] = self._dense(name, tensor)
        return self.known[name]

    def columns(self, name: str, places: str) -> str:
        """Columns of a matrix, float32 [I, B, S] for places [B, S].

        Of 8-bit codes only those that are picked are dequantized, instead of the whole vocabulary.
        """
        matrix, tensor = self.matrix(name), _affine_or_dense(self.weights[name])
        few = isinstance(tensor, AffineTensor) and tensor.format.zero == "symmetric"
        if not isinstance(tensor, AffineTensor) or not few or tensor.format.nibbles:
            return str(self.op("Gather", matrix, places, axis=1))
        groups = tensor.scales.shape[1]
        codes = self.op("Gather", name, places, axis=1)
        scales = self.op("Gather", f"{name}.scale", places, axis=1 if groups > 1 else 0)
        if groups == 1:
            scales = self.op("Unsqueeze", scales, self.constant([0]))
        size = tensor.shape[1] // groups
        return str(self.op("DequantizeLinear", codes, scales, axis=0, block_size=size))

    def _dense(self, name: str, tensor: Tensor) -> str:
        values = tensor.data if isinstance(tensor, DenseTensor) else tensor.dequantize()
        if values.dtype not in _DTYPES or values.dtype.kind not in "fV":
            values = values.astype(np.float32)
        stored = self.store(name, values.T)
        if values.dtype == np.float32:
            return stored
        return str(self.op("Cast", stored, to=self.onnx.TensorProto.FLOAT))

    def _affine(self, name: str, tensor: AffineTensor) -> str:
        outputs, inputs = tensor.shape
        groups = tensor.scales.shape[1]
        scales = tensor.scales.astype(np.float32).T  # [G, O]
        parts = [self._codes(name, tensor)]
        blocked = {"axis": 0, "block_size": inputs // groups}
        if groups == 1:
            scales, blocked = scales[0], {"axis": 1}
        parts.append(self.store(f"{name}.scale", scales))
        if tensor.format.zero == "zero_point":
            parts.append(self._zeros(name, tensor, scales.shape))
        product: str = self.op("DequantizeLinear", *parts, **blocked)
        if tensor.format.zero != "minimum":
            return product
        assert tensor.offsets is not None
        minimums = tensor.offsets.astype(np.float32).T[:, None]  # [G, 1, O]
        grouped = self.op("Reshape", product, self.constant([groups, -1, outputs]))
        raised = self.op("Add", grouped, self.store(f"{name}.minimum", minimums))
        return str(self.op("Reshape", raised, self.constant([inputs, outputs])))

    def _codes(self, name: str, tensor: AffineTensor) -> str:
        """Signed around zero where the format is symmetric; else as the zero points count."""
        if not tensor.format.nibbles:
            return self.store(name, tensor.codes.T)
        codes = unpack_nibbles(tensor.codes).T
        symmetric = tensor.format.zero == "symmetric"
        return self._packed(name, codes ^ np.uint8(8) if symmetric else codes, symmetric)

    def _zeros(self, name: str, tensor: AffineTensor, shape: Sequence[int]) -> str:
        assert tensor.offsets is not None
        zeros = np.ascontiguousarray(tensor.offsets.T).reshape(shape)
        if tensor.format.nibbles:
            return self._packed(f"{name}.zero", zeros, False)
        return self.store(f"{name}.zero", zeros)

    def _packed(self, name: str, codes: NDArray[np.uint8], signed: bool) -> str:
        """Two in a byte over all dimensions, the first in the low nibble."""
        flat = np.ascontiguousarray(codes).reshape(1, -1)
        flat = np.pad(flat, ((0, 0), (0, flat.size % 2)))
        kind = "INT4" if signed else "UINT4"
        return self.store(name, pack_nibbles(flat)[0], kind, codes.shape)


def _affine_or_dense(tensor: Tensor) -> Tensor:
    """The two kinds that ONNX has words for; the others have equals among them."""
    return tensor.affine() if isinstance(tensor, CodebookTensor | NestedTensor) else tensor

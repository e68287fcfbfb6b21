"""Hands weights to the C++ builder, which packs them; keeps of each only what it is.

`backends.native` calls `pack_weights`. A reader works ahead of the packing team, and a tensor is
let go once it is packed, so that a model needs little more memory than its packed weights.
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slipstream.backends.packed_file import PackedWeight
from slipstream.backends.sparse_forms import DENSE, Form, SparseForms
from slipstream.formats.tensor import CodebookTensor, DenseTensor, Tensor, arrays_of, map_arrays

READ_AHEAD = 3  # tensors: the reader of a GGUF file is about as fast as two packing threads


@dataclass
class PackedWeights:
    """What the builder holds, by weight name."""

    matrices: dict[str, int] = field(default_factory=dict)  # the builder's numbers
    vectors: dict[str, NDArray[np.float32]] = field(default_factory=dict)  # norms, biases
    outlines: dict[str, Tensor] = field(default_factory=dict)  # format and shape, without values


def pack_weights(
    builder: Any,
    weights: Mapping[str, Tensor],
    names: Sequence[str],
    sparse: SparseForms | None = None,
) -> PackedWeights:
    """Packs every matrix once, without its zeros where `sparse` says so; keeps one-dimensional
    weights in float32.
    """
    packed = PackedWeights()
    for name, tensor in _read_ahead(weights, names):
        if len(tensor.shape) == 2:
            form = DENSE if sparse is None else sparse.form_of(builder, tensor, add_matrix)
            packed.matrices[name] = add_matrix(builder, tensor, form)
        else:
            packed.vectors[name] = np.array(tensor.dequantize(), np.float32).ravel()
        packed.outlines[name] = _outline(tensor)
    return packed


def map_weights(builder: Any, stored: Sequence[PackedWeight]) -> PackedWeights:
    """Hands the builder what was packed at an earlier start; nothing is read or copied.

    ValueError where the kernels cannot have packed it.
    """
    packed = PackedWeights()
    for weight in stored:
        if weight.layout is None:
            packed.vectors[weight.name] = weight.data
        else:
            packed.matrices[weight.name] = builder.add_packed(weight.data, *weight.layout)
        packed.outlines[weight.name] = weight.outline
    return packed


def packed_weights(builder: Any, packed: PackedWeights) -> list[PackedWeight]:
    """What `pack_weights` made, to be stored; it keeps the panels alive, not the builder."""
    weights = []
    for name, outline in packed.outlines.items():
        layout, data = None, packed.vectors.get(name)
        if data is None:
            layout, data = builder.packed(packed.matrices[name])
        weights.append(PackedWeight(name, outline, layout, data))
    return weights


def _read_ahead(
    weights: Mapping[str, Tensor], names: Sequence[str]
) -> Iterator[tuple[str, Tensor]]:
    """The tensors in order; one other thread reads, a few tensors before they are asked for."""
    with ThreadPoolExecutor(max_workers=1) as reader:
        waiting: deque[tuple[str, Future[Tensor]]] = deque()
        for name in names:
            waiting.append((name, reader.submit(weights.__getitem__, name)))
            if len(waiting) > READ_AHEAD:
                first, tensor = waiting.popleft()
                yield first, tensor.result()
        while waiting:
            first, tensor = waiting.popleft()
            yield first, tensor.result()


def _outline(tensor: Tensor) -> Tensor:
    """The same record with one element repeated in place of its values: no memory."""
    return map_arrays(tensor, _flat)


def _flat(array: NDArray[Any]) -> NDArray[Any]:
    return np.broadcast_to(np.zeros((), array.dtype), array.shape)


def add_matrix(builder: Any, tensor: Tensor, form: Form = DENSE) -> int:
    """The builder's number of the matrix. ValueError where it has no kernel, or cannot be packed in
    that form.
    """
    if isinstance(tensor, DenseTensor):
        return _add_dense(builder, tensor)
    arrays = {name: _bits_of_half(array) for name, array in arrays_of(tensor).items()}
    kind, zero = f"int{tensor.format.bits}", "symmetric"
    if isinstance(tensor, CodebookTensor):
        kind = tensor.format.name
    else:
        zero = tensor.format.zero
    number: int = builder.add_quantized(
        arrays["codes"],
        kind,
        arrays["scales"],
        arrays.get("offsets", arrays.get("minimums")),
        zero,
        arrays.get("supers"),
        arrays.get("minimum_supers"),
        form=form,
    )
    return number


def _add_dense(builder: Any, tensor: DenseTensor) -> int:
    name = tensor.data.dtype.name
    if name in ("float16", "bfloat16"):
        data = np.ascontiguousarray(tensor.data).view(np.uint16)
    else:
        name, data = "float32", np.ascontiguousarray(tensor.dequantize())
    number: int = builder.add_dense(data, name)
    return number


def _bits_of_half(array: NDArray[Any]) -> NDArray[Any]:
    """float16 as its bits, which is how the border takes it; other dtypes as they are."""
    array = np.ascontiguousarray(array)
    return array.view(np.uint16) if array.dtype == np.float16 else array

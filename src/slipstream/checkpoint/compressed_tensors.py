"""Reading quantized tensors in the compressed-tensors layout, as vLLM and transformers store them.

    pack-quantized   X.weight_packed int32 [O, ⌈I·bits/32⌉], low bits first, code - lowest value
                     X.weight_shape int64 [2] · X.weight_scale [O, G]
                     X.weight_zero_point int32 [⌈O·bits/32⌉, G], packed down the outputs
    int-quantized    X.weight int8 [O, I] · X.weight_scale [O, G] · X.weight_zero_point int8 [O, G]
    act-order        X.weight_g_idx int32 [I], the group of each input: dense, see `reordered`
    float-quantized  X.weight f8 [O, I] · X.weight_scale: read as bfloat16, see `float8`
    mxfp4-pack-quantized, slipstream-codebook: see `compressed_tensors_codebook`

A 4-bit code is q - 8 there and q here; packed, both are the same bits, so nothing is copied.
`FolderCheckpoint` is the caller; the arrays stay in the memory map.

Legend: O outputs, I inputs, G groups of a row (1 for whole rows and whole tensors).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from slipstream.checkpoint.compressed_tensors_codebook import read_codebook
from slipstream.checkpoint.compressed_tensors_scheme import (
    FP8,
    HEAD,
    Scheme,
    is_embedding,
    read_schemes,
)
from slipstream.checkpoint.float8 import CODES, widen
from slipstream.checkpoint.foreign import Module
from slipstream.checkpoint.reordered import dense, input_order
from slipstream.checkpoint.safetensors import Tensors
from slipstream.errors import FileFormatError, UnsupportedError
from slipstream.formats.bits import unpack_bits
from slipstream.formats.nibbles import pack_nibbles, unpack_nibbles
from slipstream.formats.tensor import Affine, AffineTensor, Codebook, DenseTensor, Tensor
from slipstream.graph.ops import Activations

HIDDEN = frozenset(
    {"weight_scale", "weight_zero_point", "weight_shape", "weight_g_idx", "input_scale"}
)


class CompressedTensors:
    """The tensors of a folder whose ``quantization_config`` is that of compressed-tensors."""

    def __init__(self, config: Mapping[str, Any], arrays: Tensors) -> None:
        self._arrays = arrays
        self._stored = frozenset(arrays.names())
        self._schemes = read_schemes(config["quantization_config"])
        self._quantized = {
            name.rpartition(".")[0]: self._schemes.of(name.rpartition(".")[0])
            for name in self._stored
            if name.endswith(".weight_scale")
        }
        self._names = sorted(self._served(name) for name in self._stored if self._is_first(name))

    def names(self) -> Sequence[str]:
        """The tensors as the model knows them: a quantized one is ``X.weight``."""
        return self._names

    def activations(self) -> dict[str, Activations]:
        """By weight name: float32 for weight-only groups, else int8, dynamic or static.

        An embedding's weight has those of the head that is tied to it, if one is.
        """
        served = {name.removesuffix(".weight") for name in self._names}
        found = {
            f"{module}.weight": self._inputs(module, scheme)
            for module, scheme in self._quantized.items()
            if module in served and not is_embedding(module)
        }
        head = self._quantized.get(HEAD) or self._schemes.exact.get(HEAD)
        if head is not None and HEAD not in served:
            tied = [module for module in self._quantized if is_embedding(module)]
            found |= {f"{module}.weight": self._inputs(HEAD, head) for module in tied}
        return found

    def _inputs(self, module: str, scheme: Scheme) -> Activations:
        """How the module's inputs are rounded; FileFormatError for a fixed scale that is none."""
        if not scheme.static:
            return scheme.activations
        name = f"{module}.input_scale"
        if name not in self._stored:
            raise _disagree(module, "its input_scale is missing")
        values = np.asarray(self._arrays.array(name), np.float32)
        scale = float(values.reshape(-1)[0]) if values.size == 1 else 0.0
        if not (np.isfinite(scale) and scale > 0):
            raise _disagree(module, "its input_scale is no positive number")
        return replace(scheme.activations, scale=scale)

    def tensor(self, name: str) -> Tensor:
        """One tensor: affine where quantized, else dense. FileFormatError if its parts disagree."""
        module = name.removesuffix(".weight")
        if module == name or module not in self._quantized:
            return DenseTensor(self._arrays.array(name))
        scheme = self._quantized[module]
        parts = Module(module, self._arrays, self._stored)
        if isinstance(scheme.format, FP8):
            codes = parts.array("weight", *CODES, dimensions=2)
            return DenseTensor(widen(parts, codes, "weight_scale", scheme.format.block))
        if isinstance(scheme.format, Codebook):
            return read_codebook(parts, scheme.format)
        packed = f"{module}.weight_packed" in self._stored
        found = (self._packed if packed else self._plain)(module, scheme.format)
        groups = found.scales.shape[1]
        order = input_order(parts, "weight_g_idx", found.shape[1], groups)
        return found if order is None else _dense(parts, found, order)

    def _is_first(self, name: str) -> bool:
        """Whether a stored array stands for a tensor of its own: one of a quantized module does."""
        module, _, part = name.rpartition(".")
        if module not in self._quantized:
            return True
        return part not in HIDDEN

    def _served(self, name: str) -> str:
        return name.removesuffix("_packed") if name.endswith(".weight_packed") else name

    def _packed(self, module: str, form: Affine) -> AffineTensor:
        packed = self._part(module, "weight_packed", np.int32, 2)
        rows, width = self._shape(module)
        bits, low = form.bits, form.code_range[0]
        if packed.shape != (rows, -(-width * bits // 32)):
            raise _disagree(module, f"{packed.shape} words cannot hold [{rows}, {width}]")
        if width % 2:
            raise UnsupportedError(f"the quantized tensor {module!r} has an odd number of inputs")
        data = np.ascontiguousarray(packed).view(np.uint8)
        if bits in (4, 8):
            codes: NDArray = np.ascontiguousarray(data[:, : width * bits // 8])
        else:
            codes = unpack_bits(data, bits, width) + np.uint8(low % 256)
        if bits > 4:
            codes = (codes ^ 0x80 if bits == 8 else codes).view(np.int8)
        elif bits < 4:
            codes = pack_nibbles(codes)
        return self._affine(module, form, codes, width)

    def _plain(self, module: str, form: Affine) -> AffineTensor:
        codes = self._part(module, "weight", np.int8, 2)
        width = codes.shape[1]
        half = 1 << form.bits - 1
        if codes.min(initial=0) < -half or codes.max(initial=0) >= half:
            raise _disagree(module, f"its codes do not fit {form.bits} bits")
        if form.nibbles:
            if width % 2:
                raise UnsupportedError(f"{module!r} has an odd number of inputs")
            codes = pack_nibbles((codes + half + form.code_range[0]).view(np.uint8))
        return self._affine(module, form, codes, width)

    def _affine(self, module: str, form: Affine, codes: NDArray, width: int) -> AffineTensor:
        rows = len(codes)
        if form.group is not None and width % form.group:
            raise _disagree(module, f"{width} inputs are no whole number of groups of {form.group}")
        groups = 1 if form.group is None else width // form.group
        scales = self._scales(module, rows, groups)
        offsets = None
        if form.zero == "zero_point":
            offsets = self._zero_points(module, form.bits, rows, groups)
        return AffineTensor(form, codes, scales, offsets)

    def _scales(self, module: str, rows: int, groups: int) -> NDArray:
        scales = self._arrays.array(f"{module}.weight_scale")
        if scales.dtype not in (np.float16, np.float32):
            if scales.dtype != ml_dtypes.bfloat16:
                raise _disagree(module, f"its scales are of the type {scales.dtype}")
            scales = scales.astype(np.float32)
        scales = _spread(module, scales, rows, groups)
        if not np.isfinite(scales).all():
            raise _disagree(module, "its scales hold infinities or NaN")
        return scales

    def _zero_points(self, module: str, bits: int, rows: int, groups: int) -> NDArray:
        """Stored signed; int8 as they are, 4-bit ones moved to 0…15 as our codes are."""
        if f"{module}.weight_zero_point" not in self._stored:
            raise _disagree(module, "its weight_zero_point is missing")
        stored = self._arrays.array(f"{module}.weight_zero_point")
        if stored.dtype == np.int32 and f"{module}.weight_packed" in self._stored:
            if stored.shape != (-(-rows * bits // 32), groups):
                raise _disagree(module, f"its zero points have the shape {stored.shape}")
            unsigned = np.ascontiguousarray(unpack_words(stored.T, bits, rows).T)
            return unsigned if bits <= 4 else (unsigned - np.uint8(1 << bits - 1)).view(np.int8)
        if stored.dtype.kind not in "iu":
            raise _disagree(module, f"its zero points are of the type {stored.dtype}")
        stored = _spread(module, stored, rows, groups)
        low, high = -(1 << bits - 1), (1 << bits - 1) - 1
        if stored.min(initial=0) < low or stored.max(initial=0) > high:
            raise _disagree(module, f"its zero points lie outside {low}…{high}")
        signed = stored.astype(np.int8)
        return (signed - low).view(np.uint8) if bits <= 4 else signed

    def _shape(self, module: str) -> tuple[int, int]:
        shape = self._part(module, "weight_shape", np.int64, 1).tolist()
        if len(shape) != 2 or not all(0 < side < 1 << 31 for side in shape):
            raise _disagree(module, f"its weight_shape is {shape}")
        return shape[0], shape[1]

    def _part(self, module: str, part: str, dtype: type, dimensions: int) -> NDArray:
        name = f"{module}.{part}"
        if name not in self._stored:
            raise _disagree(module, f"its {part} is missing")
        array = self._arrays.array(name)
        if array.ndim != dimensions or (part != "weight_shape" and array.dtype != dtype):
            raise _disagree(module, f"its {part} is {array.dtype} of shape {array.shape}")
        if array.dtype.kind not in "iu":
            raise _disagree(module, f"its {part} is {array.dtype}")
        return array


def _dense(module: Module, tensor: AffineTensor, order: NDArray) -> DenseTensor:
    """Act-order: `order` gives each input's group."""
    codes = unpack_nibbles(tensor.codes) if tensor.format.nibbles else tensor.codes
    zeros: NDArray | int = tensor.format.code_of_zero
    if tensor.offsets is not None:
        zeros = tensor.offsets[:, order].astype(np.int16)
    return dense(module, codes.astype(np.int16) - zeros, tensor.scales[:, order])


def unpack_words(words: NDArray, bits: int, count: int) -> NDArray[np.uint8]:
    """int32 [R, W] → the first `count` values of each row, low bits first, uint8 [R, count]."""
    return unpack_bits(np.ascontiguousarray(words).view(np.uint8), bits, count)


def _spread(module: str, values: NDArray, rows: int, groups: int) -> NDArray:
    """[O, G] as it is; [O] becomes [O, 1]; one value for the whole tensor becomes [O, 1]."""
    if groups == 1 and values.size == 1:
        return np.full((rows, 1), values.reshape(()), values.dtype)
    if groups == 1 and values.shape == (rows,):
        return values.reshape(rows, 1)
    if values.shape != (rows, groups):
        raise _disagree(module, f"scales or zero points of {values.shape}, not [{rows}, {groups}]")
    return values


def _disagree(module: str, what: str) -> FileFormatError:
    return FileFormatError(f"the quantized tensor {module!r} is damaged: {what}")

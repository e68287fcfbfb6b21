"""Rounding a model to GGUF's types: which type each matrix gets, and its blocks.

`cli.export` hands a `GGUFEncoder` to `checkpoint.gguf_write`. The mixtures are those that llama.cpp
calls Q4_K_M and so on, with its rules for rows that are no multiple of 256; errors are weighted by
the importance of each input, where a calibration measured it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from slipstream.compress.passes.imatrix import round_weighted
from slipstream.errors import NumericError, UnsupportedError
from slipstream.formats.affine import quantize_affine
from slipstream.formats.ggml_k_write import SUPER, round_k
from slipstream.formats.ggml_write import BLOCK, DENSE, dense_bytes, exact_bytes, exact_type
from slipstream.formats.tensor import Affine, DenseTensor, Tensor

F32 = NDArray[np.float32]

# name → (what most matrices are, the head, values and half of the down projections), file type
MIXTURES: dict[str, tuple[str, str, str, int]] = {
    "f32": ("F32", "F32", "F32", 0),
    "f16": ("F16", "F16", "F16", 1),
    "bf16": ("BF16", "BF16", "BF16", 32),
    "q4_0": ("Q4_0", "Q6_K", "Q4_0", 2),
    "q4_1": ("Q4_1", "Q6_K", "Q4_1", 3),
    "q8_0": ("Q8_0", "Q8_0", "Q8_0", 7),
    "q4_k_m": ("Q4_K", "Q6_K", "Q6_K", 15),
    "q5_k_m": ("Q5_K", "Q6_K", "Q6_K", 17),
    "q6_k": ("Q6_K", "Q6_K", "Q6_K", 18),
}
KEEP = "keep"
KINDS = (*MIXTURES, KEEP)

_FORMATS = {
    "Q4_0": Affine(4, BLOCK),
    "Q4_1": Affine(4, BLOCK, "minimum"),
    "Q5_0": Affine(5, BLOCK),
    "Q5_1": Affine(5, BLOCK, "minimum"),
    "Q8_0": Affine(8, BLOCK),
}
_FALLBACK = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}  # rows that 256 does not divide
_LAYER = re.compile(r"blk\.(\d+)\.(\w+)\.weight")


@dataclass(frozen=True)
class GGUFEncoder:
    """`kind` is a name of `KINDS`; ``keep`` rounds nothing, and refuses what no type holds.

    layers      how many the model has
    tied        whether the embedding is the head, too
    importance  mean square of each input, by GGUF name; absent: all inputs count the same
    """

    kind: str
    layers: int
    tied: bool
    importance: Mapping[str, F32] = field(default_factory=dict)

    @property
    def file_type(self) -> int | None:
        """``general.file_type``; None for a mixture of one's own."""
        return MIXTURES[self.kind][3] if self.kind in MIXTURES else None

    def type_of(self, name: str, tensor: Tensor) -> str:
        """See `checkpoint.gguf_write.Encoder`."""
        if self.kind == KEEP:
            return _kept(name, tensor)
        wanted = self._wanted(name)
        width = tensor.shape[1]
        if width % SUPER and wanted in _FALLBACK:
            wanted = _FALLBACK[wanted]
        return "F16" if width % BLOCK and wanted not in DENSE else wanted

    def encode(self, name: str, tensor: Tensor, type: str) -> NDArray[np.uint8]:
        """The blocks; as they are where the type holds the tensor exactly."""
        if not isinstance(tensor, DenseTensor) and type == exact_type(tensor):
            return exact_bytes(tensor, type)
        values = tensor.dequantize()
        if not np.isfinite(values).all():
            raise NumericError(f"{name} holds infinities or NaN, which GGUF's types cannot express")
        if type in DENSE:
            try:
                return dense_bytes(values, type)
            except ValueError as error:
                raise UnsupportedError(f"{name} has {error}: choose another --type") from None
        return _rounded(values, self.importance.get(name), type)

    def _wanted(self, name: str) -> str:
        """The mixture's rule for one matrix, as llama.cpp's `llama_tensor_get_type` has it."""
        most, head, careful, _ = MIXTURES[self.kind]
        if name == "output.weight" or (self.tied and name == "token_embd.weight"):
            return head
        layer = _LAYER.fullmatch(name)
        if layer is not None and layer[2] in ("attn_v", "ffn_down"):
            return careful if _gets_more_bits(int(layer[1]), self.layers) else most
        return most


def _gets_more_bits(layer: int, layers: int) -> bool:
    """The first and the last eighth, and every third between."""
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2


def _kept(name: str, tensor: Tensor) -> str:
    if isinstance(tensor, DenseTensor):
        named = {np.dtype(dtype): type for type, dtype in DENSE.items()}
        return named.get(tensor.data.dtype, "F32")
    found = exact_type(tensor)
    if found is None:
        raise UnsupportedError(
            f"{name} is stored as {tensor.format}, which no type of GGUF holds exactly: quantize to"
            " 4 or 8 bits, symmetric, in groups of a multiple of 32, or choose a --type to round to"
        )
    return found


def _rounded(values: F32, power: F32 | None, type: str) -> NDArray[np.uint8]:
    flat = np.ones(values.shape[1], np.float32)
    importance = flat if power is None else np.maximum(power, power.mean() * 1e-4 + 1e-20)
    if type in _FALLBACK:
        return round_k(values, np.asarray(importance, np.float32), type)
    if type == "Q8_0":
        return exact_bytes(quantize_affine(values, _FORMATS[type]), type)
    tensor = round_weighted(values, np.asarray(importance, np.float32), _FORMATS[type])
    return exact_bytes(tensor, type)

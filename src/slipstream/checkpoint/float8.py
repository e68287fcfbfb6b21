"""FP8 weights (e4m3 or e5m2) with scales per tensor, output, group or square block.

    DeepSeek, Qwen   X.weight f8 [O, I] · X.weight_scale_inv [⌈O/R⌉, ⌈I/C⌉], blocks of R x C
    fbgemm, others   X.weight f8 [O, I] · X.weight_scale [1] or [O, 1]

A value is code · scale (so it is with scale_inv, despite the name). CPUs have no such numbers, so
the matrix becomes bfloat16: exact where scales are powers of two, else rounded once, by at most
2⁻⁹ of the value, as the libraries that made it dequantize it. `folder` reads through the codec, and
`compressed_tensors` its float-quantized matrices through `widen`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from slipstream.checkpoint.foreign import Module
from slipstream.errors import FileFormatError, UnsupportedError
from slipstream.formats.nibbles import pieces
from slipstream.formats.tensor import DenseTensor, Tensor

CODES = (np.dtype(ml_dtypes.float8_e4m3fn), np.dtype(ml_dtypes.float8_e5m2))
BLOCK = (128, 128)


@dataclass(frozen=True)
class Float8:
    """The codec; `block` is that of ``weight_scale_inv``."""

    block: tuple[int, int]
    marks: ClassVar[tuple[str, ...]] = ("weight_scale_inv", "weight_scale")
    parts: ClassVar[tuple[str, ...]] = (
        "weight_scale_inv",
        "weight_scale",
        "input_scale",
        "input_scale_ub",
        "activation_scale",
    )

    def decode(self, module: Module) -> Tensor:
        """Dense bfloat16 [O, I]."""
        codes = module.array("weight", *CODES, dimensions=2)
        if module.has("weight_scale_inv"):
            return DenseTensor(widen(module, codes, "weight_scale_inv", self.block))
        return DenseTensor(widen(module, codes, "weight_scale", None))


def read_float8(settings: Mapping[str, Any]) -> Float8:
    """The codec that a ``quantization_config`` of fp8 or fbgemm_fp8 asks for."""
    block = settings.get("weight_block_size") or list(BLOCK)
    if not isinstance(block, list) or len(block) != 2 or not all(_is_size(size) for size in block):
        raise FileFormatError("weight_block_size in quantization_config is not two sizes")
    kind = settings.get("fmt", "e4m3")
    if kind not in ("e4m3", "float8_e4m3fn", "e5m2"):
        raise UnsupportedError(f"FP8 weights of the kind {str(kind)[:40]!r} are not supported")
    return Float8((block[0], block[1]))


def widen(module: Module, codes: NDArray, part: str, block: tuple[int, int] | None) -> NDArray[Any]:
    """Codes f8 [O, I] times the scales in `part`, as bfloat16; `block` None: per row or tensor."""
    rows, width = codes.shape
    scales, size = _scales(module, part, (rows, width), block)
    values = np.empty(codes.shape, ml_dtypes.bfloat16)
    columns = np.arange(width) // size[1]
    for piece in pieces(codes.shape):
        chosen = np.arange(rows)[piece] // size[0]
        with np.errstate(invalid="ignore", over="ignore"):
            wide = codes[piece].astype(np.float32) * scales[chosen[:, None], columns]
            values[piece] = wide.astype(ml_dtypes.bfloat16)
    if not np.isfinite(values).all():
        raise module.damaged("its values hold infinities or NaN")
    return values


def _scales(
    module: Module, part: str, shape: tuple[int, int], block: tuple[int, int] | None
) -> tuple[NDArray[np.float32], tuple[int, int]]:
    """Scales as [rows of blocks, columns of blocks], and the block that each one covers."""
    stored = module.array(part)
    rows, width = shape
    if 0 in shape:
        raise module.damaged(f"its weight is of shape {shape}")
    if stored.dtype == ml_dtypes.float8_e8m0fnu:
        stored = stored.astype(np.float32)
    if stored.dtype.kind not in "fV" or stored.dtype in CODES:
        raise module.damaged(f"its {part} is {stored.dtype}")
    if stored.size == 1:
        grid, size = (1, 1), shape
    elif block is None and stored.size == rows:
        grid, size = (rows, 1), (1, width)
    elif (
        block is None
        and stored.ndim == 2
        and stored.shape[0] == rows
        and not width % stored.shape[1]
    ):
        grid = (rows, stored.shape[1])
        size = (1, width // stored.shape[1])
    else:
        size = block or shape
        grid = (math.ceil(rows / size[0]), math.ceil(width / size[1]))
        if stored.shape != grid:
            raise module.damaged(f"its {part} is of shape {stored.shape}, not {grid}")
    return stored.astype(np.float32).reshape(grid), size


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 < value < 1 << 31

"""bitsandbytes' weights: 4 bits by a table of 16 values (NF4, FP4), and int8 with a scale per row.

    4 bits  X.weight uint8 [O·I/2, 1], the first of two in the high nibble, all rows in one run
            X.weight.absmax f32, one per block of the run; or uint8 with nested_absmax (f32),
            nested_quant_map (256 values) and an offset, where the scales are rounded themselves
            X.weight.quant_map f32 [16] · X.weight.quant_state.bitsandbytes__nf4, JSON as bytes
    int8    X.weight int8 [O, I] · X.SCB f32 [O], the largest value of each row

A value is table[code] · absmax, and code · SCB / 127. NF4 becomes our codebook, whose levels are
rounded to int8 (0.0013 of absmax, root mean square; see `formats.codebook`); FP4, and rows that its
blocks do not divide, become dense, as bitsandbytes dequantizes. `folder` reads through this codec.

Legend: O outputs, I inputs.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from slipstream.checkpoint.foreign import Module
from slipstream.checkpoint.json_file import parse_object
from slipstream.errors import UnsupportedError
from slipstream.formats.codebook import NF4_UNIT, Codebook, CodebookTensor
from slipstream.formats.nibbles import unpack_nibbles
from slipstream.formats.tensor import Affine, AffineTensor, DenseTensor, Tensor

KINDS = ("nf4", "fp4")
STATES = tuple(f"weight.quant_state.bitsandbytes__{kind}" for kind in KINDS)
DTYPES = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "float32": np.float32}
LARGEST_STATE = 1 << 16
NESTED_MAP = 256
SMALLEST_GROUP = 16


@dataclass(frozen=True)
class BitsAndBytes:
    """The codec of both kinds."""

    marks: ClassVar[tuple[str, ...]] = (*STATES, "SCB")
    parts: ClassVar[tuple[str, ...]] = (
        *STATES,
        "SCB",
        "weight_format",
        "weight.absmax",
        "weight.quant_map",
        "weight.nested_absmax",
        "weight.nested_quant_map",
    )

    def decode(self, module: Module) -> Tensor:
        """Affine int8, or a matrix of 4-bit codes with its table."""
        return _int8(module) if module.has("SCB") else _four_bits(module)


def _int8(module: Module) -> AffineTensor:
    if module.has("weight_format") and module.array("weight_format").any():
        raise UnsupportedError(
            f"the rows of {module.name!r} are tiled for one kind of GPU: save it with a newer"
            " bitsandbytes, which keeps them in order"
        )
    codes = module.array("weight", np.int8, dimensions=2)
    largest = module.scales("SCB", (len(codes),)).astype(np.float32)
    scales = largest.reshape(-1, 1) * np.float32(1 / 127)
    return AffineTensor(Affine(8, None), codes, scales)


@dataclass(frozen=True)
class _State:
    """What the JSON of a 4-bit matrix says."""

    shape: tuple[int, int]
    block: int
    dtype: Any
    nested_block: int
    nested_offset: float


def _four_bits(module: Module) -> Tensor:
    state = _read_state(module)
    rows, width = state.shape
    packed = module.array("weight", np.uint8)
    if packed.size * 2 != rows * width:
        raise module.damaged(f"{packed.size} bytes cannot hold {rows} x {width} codes of 4 bits")
    table = module.scales("weight.quant_map", (16,)).astype(np.float32)
    largest = _largest(module, state, math.ceil(rows * width / state.block))
    swapped = packed.reshape(-1)
    swapped = (swapped << np.uint8(4)) | (swapped >> np.uint8(4))
    if width % state.block == 0 and state.block % SMALLEST_GROUP == 0 and _is_nf4(table):
        scales = (largest / np.float32(NF4_UNIT)).reshape(rows, -1)
        return CodebookTensor(Codebook("nf4", state.block), swapped.reshape(rows, -1), scales)
    return _dense(module, state, table[unpack_nibbles(swapped)], largest)


def _is_nf4(table: NDArray[np.float32]) -> bool:
    """Whether our levels are this table, rounded."""
    levels = Codebook("nf4", None).levels
    return bool(np.abs(table * NF4_UNIT - levels).max() <= 0.5)


def _dense(
    module: Module, state: _State, values: NDArray[np.float32], largest: NDArray[np.float32]
) -> DenseTensor:
    spread = np.repeat(largest, state.block)[: values.size]
    with np.errstate(over="ignore"):
        result = (values * spread).astype(state.dtype).reshape(state.shape)
    return DenseTensor(result)


def _largest(module: Module, state: _State, blocks: int) -> NDArray[np.float32]:
    """The scale of each block, f32 [blocks]; those that are rounded themselves restored."""
    if not module.has("weight.nested_absmax"):
        return module.scales("weight.absmax", (blocks,)).astype(np.float32)
    codes = module.array("weight.absmax", np.uint8)
    if codes.shape != (blocks,):
        raise module.damaged(f"its absmax is of shape {codes.shape}, not ({blocks},)")
    nested = module.scales("weight.nested_absmax", (math.ceil(blocks / state.nested_block),))
    table = module.scales("weight.nested_quant_map", (NESTED_MAP,))
    scale = np.repeat(nested.astype(np.float32), state.nested_block)[:blocks]
    with np.errstate(over="ignore", invalid="ignore"):
        found = table.astype(np.float32)[codes] * scale + np.float32(state.nested_offset)
    if not np.isfinite(found).all():
        raise module.damaged("its absmax holds infinities or NaN")
    return found


def _read_state(module: Module) -> _State:
    part = next((state for state in STATES if module.has(state)), STATES[0])
    raw = module.array(part, np.uint8, dimensions=1)
    if raw.size > LARGEST_STATE:
        raise module.damaged("its quant_state is too large")
    said = parse_object(raw.tobytes(), f"the quant_state of {module.name!r}")
    shape, dtype = said.get("shape"), DTYPES.get(str(said.get("dtype")))
    if not isinstance(shape, list) or len(shape) != 2 or not all(map(_is_size, shape)):
        raise module.damaged(f"its quant_state gives the shape {str(shape)[:60]}")
    block, nested = said.get("blocksize"), said.get("nested_blocksize", NESTED_MAP)
    offset = said.get("nested_offset", 0.0)
    if type(block) is not int or not _is_size(block) or not _is_size(nested) or dtype is None:
        raise module.damaged("its quant_state gives no valid blocksize or dtype")
    if type(offset) not in (int, float) or not math.isfinite(offset) or abs(offset) > 1e30:
        raise module.damaged("its quant_state gives no valid nested_offset")
    return _State((shape[0], shape[1]), block, dtype, nested, float(offset))


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 < value < 1 << 31

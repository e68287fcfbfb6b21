"""Our tensors as GGML's blocks: exactly, where one of its types holds them.

`checkpoint.gguf_write` stores what comes from here; rounding to a type is `compress.gguf_round`.
What is written is read back by `formats.ggml` to the bit.

    symmetric, 4 bits   Q4_0      minimum, 4 bits   Q4_1      zero points   Q4_1, where -z · scale
    symmetric, 5 bits   Q5_0      minimum, 5 bits   Q5_1                    is a float16
    symmetric, 8 bits   Q8_0      codebook iq4_nl   IQ4_NL
"""

from collections.abc import Callable

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from slipstream.formats.nibbles import unpack_nibbles
from slipstream.formats.tensor import AffineTensor, CodebookTensor, Quantized

Bytes = NDArray[np.uint8]

DENSE = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}
BLOCK = 32  # values of one scale in each type here


def dense_bytes(values: NDArray, type: str) -> Bytes:
    """Any shape → uint8 [..., bytes of a row]; ValueError where float16 would overflow."""
    with np.errstate(over="ignore"):
        stored = np.ascontiguousarray(values.astype(DENSE[type]))
    if not np.isfinite(stored).all() and np.isfinite(values).all():
        raise ValueError(f"values beyond {type}")
    return stored.view(np.uint8)


def exact_type(tensor: Quantized) -> str | None:
    """The type whose blocks hold every value of the matrix, or None."""
    width, groups = tensor.shape[1], tensor.scales.shape[1]
    if width % BLOCK or (width // groups) % BLOCK:
        return None
    if isinstance(tensor, CodebookTensor) and tensor.format.name == "iq4_nl":
        kept = tensor.supers is None and tensor.scales.dtype.kind == "f" and _is_half(tensor.scales)
        return "IQ4_NL" if kept else None
    if not isinstance(tensor, AffineTensor):
        tensor = tensor.affine()
    if not _is_half(tensor.scales):
        return None
    form = tensor.format
    if form.zero == "symmetric":
        if form.nibbles:
            return "Q4_0"
        return "Q5_0" if _within(tensor.codes, -16, 15) else "Q8_0"
    if form.zero == "zero_point":
        return "Q4_1" if form.nibbles and _is_half(_minimums(tensor)) else None
    if not _is_half(_minimums(tensor)):
        return None
    if form.nibbles:
        return "Q4_1"
    return "Q5_1" if _within(tensor.codes, 0, 31) else None


def exact_bytes(tensor: Quantized, type: str) -> Bytes:
    """The matrix as blocks of the type that `exact_type` found: uint8 [O, bytes of a row]."""
    if type != "IQ4_NL" and not isinstance(tensor, AffineTensor):
        tensor = tensor.affine()
    rows, width = tensor.shape
    codes = unpack_nibbles(tensor.codes) if tensor.format.bits <= 4 else tensor.codes
    each = width // BLOCK // tensor.scales.shape[1]  # blocks that share a scale
    d = np.repeat(tensor.scales, each, axis=1).astype(np.float16)
    fields = [d.reshape(-1, 1).view(np.uint8)]
    if type in ("Q4_1", "Q5_1"):
        assert isinstance(tensor, AffineTensor)
        m = np.repeat(_minimums(tensor), each, axis=1).astype(np.float16)
        fields.append(m.reshape(-1, 1).view(np.uint8))
    fields += _PACK[type](codes.reshape(-1, BLOCK))
    return np.hstack(fields).reshape(rows, -1)


def split_nibbles(codes: Bytes) -> Bytes:
    """Codes 0…15 [B, 32] → [B, 16]: the first half in the low nibbles."""
    low, high = codes[:, : BLOCK // 2], codes[:, BLOCK // 2 :]
    return np.asarray(low | (high << np.uint8(4)), np.uint8)


def _five(codes: Bytes) -> list[Bytes]:
    """Codes 0…31: the fifth bits, then the nibbles."""
    fifth = np.packbits(codes >> np.uint8(4), axis=1, bitorder="little")
    return [fifth, split_nibbles(codes & np.uint8(15))]


_PACK: dict[str, Callable[[NDArray], list[Bytes]]] = {
    "Q4_0": lambda codes: [split_nibbles(codes)],
    "IQ4_NL": lambda codes: [split_nibbles(codes)],
    "Q4_1": lambda codes: [split_nibbles(codes)],
    "Q5_0": lambda codes: _five((codes + np.int8(16)).view(np.uint8)),
    "Q5_1": lambda codes: _five(codes.view(np.uint8)),
    "Q8_0": lambda codes: [codes.view(np.uint8)],
}


def _minimums(tensor: AffineTensor) -> NDArray:
    """What is added to scale · q, [O, G]."""
    assert tensor.offsets is not None
    if tensor.format.zero == "minimum":
        return tensor.offsets
    return -tensor.offsets.astype(np.float32) * tensor.scales.astype(np.float32)


def _is_half(values: NDArray) -> bool:
    """Whether float16 holds them all."""
    if values.dtype == np.float16:
        return True
    with np.errstate(over="ignore"):
        return bool((values.astype(np.float16).astype(np.float32) == values).all())


def _within(codes: NDArray, low: int, high: int) -> bool:
    return bool(codes.min(initial=0) >= low and codes.max(initial=0) <= high)

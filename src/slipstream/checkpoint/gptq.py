"""GPTQ's layout, as AutoGPTQ and GPTQModel write it, and AWQ's GEMM layout, as AutoAWQ does.

    GPTQ  X.qweight int32 [⌈I·bits/32⌉, O], packed down the inputs, low bits first
          X.qzeros  int32 [G, ⌈O·bits/32⌉], packed along the outputs: z - 1 (in version 2: z)
          X.scales  [G, O] · X.g_idx int32 [I], the group of each input
    AWQ   X.qweight int32 [I, O/8], X.qzeros int32 [G, O/8] (z), X.scales [G, O]; the nibbles of a
          word, from the lowest, are the outputs 0 2 4 6 1 3 5 7

Both mean scale · (q - z). Codes and zeros come over as they are. With act-order (a `g_idx` that
jumps about) a matrix becomes dense, see `reordered`. `folder` reads through these codecs.

Legend: O outputs, I inputs, G groups of a row.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast

import numpy as np
from numpy.typing import NDArray

from slipstream.checkpoint.foreign import Module
from slipstream.checkpoint.reordered import dense, input_order
from slipstream.errors import UnsupportedError
from slipstream.formats.bits import unpack_bits
from slipstream.formats.nibbles import pack_nibbles
from slipstream.formats.tensor import Affine, AffineTensor, Tensor

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # the output that each nibble of a word holds
SMALLEST_GROUP = 16

Bits = Literal[2, 3, 4, 8]


@dataclass(frozen=True)
class GPTQ:
    """The codec; `bits` is None where modules differ, and each is known by its shapes."""

    bits: Bits | None
    zero_shift: int  # what is stored lacks this much
    marks: ClassVar[tuple[str, ...]] = ("qweight",)
    parts: ClassVar[tuple[str, ...]] = ("qweight", "qzeros", "scales", "g_idx")

    def decode(self, module: Module) -> Tensor:
        """Affine with zero points (symmetric where all are the middle), or dense float16."""
        words = module.array("qweight", np.int32, np.uint32, dimensions=2)
        zero_words = module.array("qzeros", np.int32, np.uint32, dimensions=2)
        outputs, groups = words.shape[1], zero_words.shape[0]
        bits = self._bits(module, zero_words.shape[1] * 32, outputs)
        inputs = words.shape[0] * 32 // bits
        if 0 in (inputs, outputs, groups) or inputs * bits != words.shape[0] * 32:
            raise module.damaged(f"its qweight is of shape {words.shape}")
        scales = module.scales("scales", (groups, outputs)).T
        zeros = _unpack(zero_words, bits, outputs).T + np.uint8(self.zero_shift)
        zeros &= np.uint8((1 << bits) - 1)  # AutoGPTQ counts round, too
        codes = _unpack(words.T, bits, inputs)
        order = input_order(module, "g_idx", inputs, groups)
        if order is not None:
            steps = codes.astype(np.int16) - zeros[:, order].astype(np.int16)
            return dense(module, steps, scales[:, order])
        return affine(module, bits, codes, scales, zeros)

    def _bits(self, module: Module, zero_bits: int, outputs: int) -> Bits:
        found = zero_bits // max(outputs, 1)
        if found not in (2, 3, 4, 8) or found * outputs != zero_bits:
            raise module.damaged(f"{zero_bits} bits of zeros do not belong to {outputs} outputs")
        if self.bits not in (None, found):
            raise module.damaged(f"it has {found} bits, the config says {self.bits}")
        return cast(Bits, found)


@dataclass(frozen=True)
class AWQ:
    """The codec of AutoAWQ's GEMM layout, always 4 bits."""

    marks: ClassVar[tuple[str, ...]] = ("qweight",)
    parts: ClassVar[tuple[str, ...]] = ("qweight", "qzeros", "scales")

    def decode(self, module: Module) -> Tensor:
        """Affine with zero points (symmetric where all are the middle)."""
        words = module.array("qweight", np.int32, np.uint32, dimensions=2)
        zero_words = module.array("qzeros", np.int32, np.uint32, dimensions=2)
        if 0 in words.shape or len(zero_words) == 0 or zero_words.shape[1] != words.shape[1]:
            raise module.damaged(f"zeros of {zero_words.shape} for words of {words.shape}")
        outputs = words.shape[1] * 8
        scales = module.scales("scales", (len(zero_words), outputs)).T
        codes, zeros = (_interleaved(part, outputs).T for part in (words, zero_words))
        return affine(module, 4, codes, scales, zeros)


def read_gptq(settings: Mapping[str, Any]) -> GPTQ:
    """The codec that a ``quantization_config`` of GPTQ asks for; UnsupportedError for the rest."""
    layout = settings.get("checkpoint_format") or "gptq"
    shifts = {"gptq": 1, "gptq_v2": 0}
    if not isinstance(layout, str) or layout not in shifts:
        raise UnsupportedError(
            f"GPTQ weights in the layout {str(layout)[:40]!r} are packed for one kind of GPU: use a"
            " checkpoint in the layout gptq or gptq_v2"
        )
    if settings.get("dynamic"):
        return GPTQ(None, shifts[layout])
    bits = settings.get("bits")
    if bits not in (2, 3, 4, 8) or type(bits) is not int:
        raise UnsupportedError(
            f"GPTQ weights of {str(bits)[:20]} bits: only 2, 3, 4 and 8 are read"
        )
    return GPTQ(cast(Bits, bits), shifts[layout])


def read_awq(settings: Mapping[str, Any]) -> AWQ:
    """The codec that a ``quantization_config`` of AWQ asks for; UnsupportedError for the rest."""
    layout, bits = str(settings.get("version", "gemm")).lower()[:40], settings.get("bits", 4)
    if layout != "gemm" or bits != 4:
        raise UnsupportedError(
            f"AWQ weights of {str(bits)[:20]} bits in the layout {layout!r} are not read: use a"
            " checkpoint of 4 bits in the layout gemm"
        )
    return AWQ()


def affine(
    module: Module, bits: Bits, codes: NDArray[np.uint8], scales: NDArray, zeros: NDArray[np.uint8]
) -> AffineTensor:
    """codes [O, I] and zeros [O, G] counted from 0, scales [O, G] → our tensor, nothing changed."""
    groups, inputs = scales.shape[1], codes.shape[1]
    size = inputs // groups
    if size * groups != inputs:
        raise module.damaged(f"{inputs} inputs are no whole number of {groups} groups")
    if size % SMALLEST_GROUP:
        raise UnsupportedError(
            f"{module.name!r} has groups of {size} inputs, no multiple of {SMALLEST_GROUP}"
        )
    middle = np.uint8(1 << bits - 1)
    symmetric = bool((zeros == middle).all())
    form = Affine(bits, None if groups == 1 else size, "symmetric" if symmetric else "zero_point")
    scales = np.ascontiguousarray(scales)
    if bits == 8:
        signed, offsets = ((part ^ middle).view(np.int8) for part in _contiguous(codes, zeros))
        return AffineTensor(form, signed, scales, None if symmetric else offsets)
    if symmetric:  # ours has the middle at 8, whatever the width
        return AffineTensor(form, pack_nibbles(codes + (np.uint8(8) - middle)), scales)
    return AffineTensor(form, pack_nibbles(codes), scales, np.ascontiguousarray(zeros))


def _contiguous(*arrays: NDArray) -> tuple[NDArray, ...]:
    return tuple(np.ascontiguousarray(array) for array in arrays)


def _unpack(words: NDArray, bits: int, count: int) -> NDArray[np.uint8]:
    """Words [R, W] → the first `count` values of each row, low bits first."""
    return unpack_bits(np.ascontiguousarray(words).view(np.uint8), bits, count)


def _interleaved(words: NDArray, outputs: int) -> NDArray[np.uint8]:
    """Words [R, O/8] → uint8 [R, O], the outputs in their own order."""
    nibbles = _unpack(words, 4, outputs).reshape(len(words), -1, 8)
    return nibbles[..., np.argsort(AWQ_ORDER)].reshape(len(words), outputs)

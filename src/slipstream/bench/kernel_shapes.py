"""Models that exist by their shape alone: for timing kernels, random weights are as good as any.

`slipstream bench kernels --shape 1B` runs one. They are Llamas of a few blocks, enough that no
cache holds the weights, with a vocabulary of 32768.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from slipstream.errors import UnsupportedError
from slipstream.formats.codebook import CodebookName
from slipstream.formats.tensor import (
    Affine,
    AffineTensor,
    Codebook,
    CodebookTensor,
    DenseTensor,
    NestedTensor,
    Quantized,
    Tensor,
)
from slipstream.graph.graph import Graph
from slipstream.models.registry import blueprint_of

CODE_SCALE = 0.005  # of random weights: activations neither vanish nor explode


@dataclass(frozen=True)
class Shape:
    """The sizes of a Llama that decide what there is to read and to compute."""

    width: int
    blocks: int
    heads: int
    kv_heads: int
    mlp: int
    vocabulary: int = 32768

    def config(self) -> dict[str, object]:
        """As config.json would say it."""
        return {
            "model_type": "llama",
            "architectures": ["LlamaForCausalLM"],
            "hidden_size": self.width,
            "num_hidden_layers": self.blocks,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "intermediate_size": self.mlp,
            "vocab_size": self.vocabulary,
            "max_position_embeddings": 16384,
            "rms_norm_eps": 1e-5,
            "rope_theta": 500000.0,
            "tie_word_embeddings": False,
        }


@dataclass(frozen=True)
class Format:
    """What every matrix of a shape is stored in; nested: with GGML's two levels of scales; sparse:
    two of each four weights are zero, or with `zeros` that share of them anywhere, and packed
    without those zeros.
    """

    form: Affine | Codebook
    nested: bool = False
    sparse: bool = False
    zeros: float = 0.0

    @property
    def pattern(self) -> Literal["dense", "2:4", "mask"]:
        """How the kernels pack it."""
        if not self.sparse:
            return "dense"
        return "mask" if self.zeros else "2:4"


SHAPES = {
    "smol": Shape(576, 30, 9, 3, 1536),  # SmolLM2-135M
    "1B": Shape(2048, 4, 32, 8, 8192),  # Llama-3.2-1B, four of its sixteen blocks
    "7B": Shape(4096, 2, 32, 8, 14336),  # Mistral-7B, two of its 32 blocks
}


def shaped(name: str, format: Format) -> tuple[Graph, "RandomWeights"]:
    """The graph of a named shape, and weights for it; UnsupportedError where there is none."""
    if name not in SHAPES:
        raise UnsupportedError(f"there is no shape {name!r}; choose one of {', '.join(SHAPES)}")
    blueprint = blueprint_of(SHAPES[name].config())
    return blueprint.graph, RandomWeights(blueprint.shapes, format)


class RandomWeights(Mapping[str, Tensor]):
    """Random quantized matrices (the embedding is bfloat16), and vectors of ones. Kept nowhere."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], format: Format) -> None:
        self._shapes = shapes
        self._format = format

    def __getitem__(self, name: str) -> Tensor:
        shape = self._shapes[name]
        if len(shape) == 1:
            return DenseTensor(np.ones(shape, np.float32))
        if "embed" in name:
            values = np.random.default_rng(0).normal(size=shape)
            return DenseTensor(values.astype(np.float16))
        return random_tensor((shape[0], shape[1]), self._format)

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)


def random_tensor(shape: tuple[int, int], format: Format) -> Quantized:
    """A matrix [O, I] of random codes with one scale everywhere."""
    outputs, inputs = shape
    bits = format.form.bits
    wide = bits > 4
    codes: NDArray = np.random.default_rng(0).integers(
        0, 1 << bits if wide else 256, (outputs, inputs if wide else inputs // 2), np.uint8
    )
    low = format.form.code_range[0] if isinstance(format.form, Affine) else 0
    if wide:
        codes = (codes + np.uint8(low % 256)).view(np.int8)
    elif bits < 4:
        mask = (1 << bits) - 1
        codes = (codes & (mask | mask << 4)) + np.uint8(low | low << 4)
    codes = _pruned(codes, format, wide)
    groups = (outputs, inputs // (format.form.group or inputs))
    scales = np.full(groups, CODE_SCALE, np.float16)
    if isinstance(format.form, Codebook):
        powers = np.full(groups, 115, np.uint8)
        return CodebookTensor(format.form, codes, powers if format.form.name == "mxfp4" else scales)
    minimum = format.form.zero == "minimum"
    if format.nested:
        ones = np.ones(groups, np.int8)
        supers = np.full((outputs, inputs // 256), CODE_SCALE, np.float16)
        nothing = (np.zeros_like(ones), supers) if minimum else (None, None)
        return NestedTensor(format.form, codes, ones, supers, *nothing)
    return AffineTensor(format.form, codes, scales, np.zeros_like(scales) if minimum else None)


def _pruned(codes: NDArray, format: Format, wide: bool) -> NDArray:
    """Zeros as the format has them: symmetric codes of 8 bits, or of 4, two a byte."""
    if format.pattern == "2:4":  # inputs 0 and 1 of each four stay
        fours = codes.reshape(codes.shape[0], -1, 4 if wide else 2)
        fours[..., fours.shape[2] // 2 :] = 0 if wide else 0x88
        return fours.reshape(codes.shape)
    if format.pattern == "mask":
        random = np.random.default_rng(1)
        if wide:
            return np.where(random.random(codes.shape) < format.zeros, np.int8(0), codes)
        low, high = (random.random(codes.shape) < format.zeros for _ in range(2))
        codes = np.where(low, codes & 0xF0 | 0x08, codes)
        return np.where(high, codes & 0x0F | 0x80, codes)
    return codes


def read_format(text: str, group: int | None) -> Format:
    """``int3``, ``nf4`` or ``q4_k``; K-quants have groups of their own. UnsupportedError."""
    if text in _K_QUANTS:
        return Format(_K_QUANTS[text], nested=True)
    if text in ("nf4", "iq4_nl", "mxfp4"):
        return Format(Codebook(cast(CodebookName, text), group))
    bits = {f"int{bits}": bits for bits in (2, 3, 4, 5, 6, 8)}.get(text)
    if bits is None:
        raise UnsupportedError(
            f"--format is int2 … int6, int8, nf4, iq4_nl, mxfp4 or q2_k … q6_k, not {text!r}"
        )
    return Format(Affine(cast(Any, bits), group))


_K_QUANTS = {
    "q2_k": Affine(2, 16, "minimum"),
    "q3_k": Affine(3, 16),
    "q4_k": Affine(4, 32, "minimum"),
    "q5_k": Affine(5, 32, "minimum"),
    "q6_k": Affine(6, 16),
}

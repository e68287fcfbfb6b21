"""Models that exist by their shape alone: for timing kernels, random weights are as good as any.

`slipstream bench kernels --shape 1B` runs one. They are Llamas of a few blocks, enough that no
cache holds the weights, with a vocabulary of 32768.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slipstream.errors import UnsupportedError
from slipstream.formats.tensor import Affine, AffineTensor, DenseTensor, Tensor
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


SHAPES = {
    "smol": Shape(576, 30, 9, 3, 1536),  # SmolLM2-135M
    "1B": Shape(2048, 4, 32, 8, 8192),  # Llama-3.2-1B, four of its sixteen blocks
    "7B": Shape(4096, 2, 32, 8, 14336),  # Mistral-7B, two of its 32 blocks
}


def shaped(name: str, format: Affine) -> tuple[Graph, "RandomWeights"]:
    """The graph of a named shape, and weights for it; UnsupportedError where there is none."""
    if name not in SHAPES:
        raise UnsupportedError(f"there is no shape {name!r}; choose one of {', '.join(SHAPES)}")
    blueprint = blueprint_of(SHAPES[name].config())
    return blueprint.graph, RandomWeights(blueprint.shapes, format)


class RandomWeights(Mapping[str, Tensor]):
    """Random affine matrices (the embedding is bfloat16), and vectors of ones. Kept nowhere."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], format: Affine) -> None:
        self._shapes = shapes
        self._format = format

    def __getitem__(self, name: str) -> Tensor:
        shape = self._shapes[name]
        if len(shape) == 1:
            return DenseTensor(np.ones(shape, np.float32))
        if "embed" in name:
            values = np.random.default_rng(0).normal(size=shape)
            return DenseTensor(values.astype(np.float16))
        return random_affine((shape[0], shape[1]), self._format)

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)


def random_affine(shape: tuple[int, int], format: Affine) -> AffineTensor:
    """A matrix [O, I] of random codes with one scale everywhere."""
    outputs, inputs = shape
    draw = np.random.default_rng(0)
    codes: NDArray = draw.integers(0, 256, (outputs, inputs * format.bits // 8), np.uint8)
    if format.bits == 8:
        codes = codes.view(np.int8)
    groups = (outputs, inputs // (format.group or inputs))
    scales = np.full(groups, CODE_SCALE, np.float16)
    offsets = np.zeros(groups, np.float16) if format.zero == "minimum" else None
    return AffineTensor(format, codes, scales, offsets)

"""Models of a given shape with random weights, as GGUF files that every contestant can read.

Speed does not depend on the weights' values; a gigabyte of random ones stands in for a model that
need not be downloaded. The tokenizer is SmolLM2's (vocabulary 49152).

    python benchmarks/peers/shapes.py 1B Q4_0        # writes build/peers/shapes/1B-Q4_0.gguf
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
from environment import ROOT
from gguf.constants import GGMLQuantizationType as Type

from slipstream.checkpoint.sources import resolve

BLOCK = 32  # weights in a block of every type below
BYTES = {Type.Q4_0: 18, Type.Q8_0: 34}
SCALE = 0.02  # of random weights, so that activations neither vanish nor explode


@dataclass(frozen=True)
class Shape:
    """A Llama: the sizes that decide how much there is to read and to compute."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int
    context: int = 16384


SHAPES = {
    "1B": Shape(2048, 16, 32, 8, 64, 8192),  # Llama-3.2-1B with a vocabulary of 49152
    "tiny": Shape(256, 2, 4, 2, 64, 512),
}


def model_of(shape: str, kind: str) -> Path:
    """The file; written at the first call, always the same."""
    path = ROOT / "build" / "peers" / "shapes" / f"{shape}-{kind}.gguf"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path.with_suffix(".part"), SHAPES[shape], Type[kind])
        path.with_suffix(".part").rename(path)
    return path


def _write(path: Path, shape: Shape, kind: Type) -> None:
    donor = gguf.GGUFReader(resolve("smollm2:135m"))
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.mlp)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_rope_freq_base(500000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    _copy_tokenizer(donor, writer)
    vocabulary = len(donor.fields["tokenizer.ggml.tokens"].data)
    writer.add_vocab_size(vocabulary)
    draw = np.random.default_rng(0)
    for name, (outputs, inputs) in _matrices(shape, vocabulary).items():
        raw = _random_blocks(draw, outputs, inputs, kind)
        writer.add_tensor(name, raw, raw_shape=raw.shape, raw_dtype=kind)
    for name in _norms(shape):
        writer.add_tensor(name, np.ones(shape.hidden, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _matrices(shape: Shape, vocabulary: int) -> dict[str, tuple[int, int]]:
    wide, narrow = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    matrices = {"token_embd.weight": (vocabulary, shape.hidden)}
    for layer in range(shape.layers):
        block = f"blk.{layer}."
        matrices |= {
            f"{block}attn_q.weight": (wide, shape.hidden),
            f"{block}attn_k.weight": (narrow, shape.hidden),
            f"{block}attn_v.weight": (narrow, shape.hidden),
            f"{block}attn_output.weight": (shape.hidden, wide),
            f"{block}ffn_gate.weight": (shape.mlp, shape.hidden),
            f"{block}ffn_up.weight": (shape.mlp, shape.hidden),
            f"{block}ffn_down.weight": (shape.hidden, shape.mlp),
        }
    return matrices


def _norms(shape: Shape) -> list[str]:
    names = [f"blk.{i}.{kind}_norm.weight" for i in range(shape.layers) for kind in ("attn", "ffn")]
    return [*names, "output_norm.weight"]


def _random_blocks(draw: np.random.Generator, outputs: int, inputs: int, kind: Type) -> np.ndarray:
    """uint8 [outputs, bytes of a row]: a float16 scale, then random codes, block by block."""
    codes = 8 if kind is Type.Q4_0 else 127
    blocks = draw.integers(256, size=(outputs, inputs // BLOCK, BYTES[kind]), dtype=np.uint8)
    scale = np.float16(SCALE / codes * 2)
    blocks[:, :, :2] = np.frombuffer(scale.tobytes(), np.uint8)
    return blocks.reshape(outputs, -1)


def _copy_tokenizer(donor: gguf.GGUFReader, writer: gguf.GGUFWriter) -> None:
    for name, field in donor.fields.items():
        if not name.startswith("tokenizer."):
            continue
        kind = field.types[0]
        inner = field.types[1] if kind is gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), kind, sub_type=inner)


if __name__ == "__main__":
    print(model_of(*sys.argv[1:3]))

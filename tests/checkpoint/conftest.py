"""A writer of GGUF files that can also write wrong ones."""

import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
CODES = {
    U8: "B",
    I8: "b",
    U16: "H",
    I16: "h",
    U32: "I",
    I32: "i",
    F32: "f",
    BOOL: "?",
    U64: "Q",
    I64: "q",
    F64: "d",
}


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def kind_of(value: Any) -> int:
    if isinstance(value, bool):
        return BOOL
    if isinstance(value, int):
        return U32 if 0 <= value < 1 << 32 else I64
    return F32 if isinstance(value, float) else STRING


def typed(value: Any) -> bytes:
    """A value with its type before it; a pair is (type, value)."""
    if isinstance(value, list):
        kind = kind_of(value[0]) if value else U32
        return struct.pack("<IIQ", ARRAY, kind, len(value)) + b"".join(
            bare(kind, entry) for entry in value
        )
    kind, value = value if isinstance(value, tuple) else (kind_of(value), value)
    return struct.pack("<I", kind) + bare(kind, value)


def bare(kind: int, value: Any) -> bytes:
    if kind in CODES:
        return struct.pack("<" + CODES[kind], value)
    return value if kind == ARRAY else text(value)


def write_gguf(
    metadata: Mapping[str, Any],
    tensors: Mapping[str, tuple[Sequence[int], int, bytes]] | None = None,
    *,
    version: int = 3,
    alignment: int = 32,
) -> bytes:
    """`tensors`: name → (dimensions, inputs first; type; bytes)."""
    tensors = tensors or {}
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(metadata))
    head += b"".join(text(key) + typed(value) for key, value in metadata.items())
    data = b""
    for name, (dimensions, kind, raw) in tensors.items():
        head += text(name) + struct.pack(
            f"<I{len(dimensions)}QIQ", len(dimensions), *dimensions, kind, len(data)
        )
        data += raw + bytes(-len(raw) % alignment)
    return head + bytes(-len(head) % alignment) + data


@pytest.fixture(scope="session")
def gguf_bytes() -> Callable[..., bytes]:
    """`write_gguf`."""
    return write_gguf


LLAMA = {
    "general.architecture": "llama",
    "llama.block_count": 1,
    "llama.context_length": 64,
    "llama.embedding_length": 32,
    "llama.feed_forward_length": 64,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "llama.rope.freq_base": 10000.0,
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.tokens": ["a", "b", "é", "<end>"],
    "tokenizer.ggml.token_type": [1, 1, 1, 3],
    "tokenizer.ggml.scores": [0.5, -1.0, 0.0, 2.5],
    "tokenizer.ggml.eos_token_id": 3,
    "tokenizer.ggml.add_bos_token": False,
    "tokenizer.chat_template": "{{ messages }}",
}


@pytest.fixture(scope="session")
def tiny_llama() -> tuple[dict[str, Any], dict[str, tuple[Sequence[int], int, bytes]]]:
    """The metadata and tensors of a Llama of one layer, for `gguf_bytes`."""
    generator = np.random.default_rng(0)

    def matrix(
        inputs: int, outputs: int, kind: int, per_row: int
    ) -> tuple[Sequence[int], int, bytes]:
        return (
            (inputs, outputs),
            kind,
            generator.integers(0, 60, outputs * per_row, dtype=np.uint8).tobytes(),
        )

    ones = ((32,), 0, np.ones(32, "<f4").tobytes())
    tensors = {
        "token_embd.weight": matrix(32, 4, 8, 34),
        "output_norm.weight": ones,
        "blk.0.attn_norm.weight": ones,
        "blk.0.attn_q.weight": matrix(32, 32, 3, 20),
        "blk.0.attn_k.weight": matrix(32, 16, 2, 18),
        "blk.0.attn_v.weight": matrix(32, 16, 1, 64),
        "blk.0.attn_output.weight": matrix(32, 32, 30, 64),
        "blk.0.ffn_norm.weight": ones,
        "blk.0.ffn_gate.weight": matrix(32, 64, 39, 17),
        "blk.0.ffn_up.weight": matrix(32, 64, 20, 18),
        "blk.0.ffn_down.weight": matrix(64, 32, 8, 68),
    }
    return dict(LLAMA), tensors

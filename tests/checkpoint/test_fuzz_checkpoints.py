"""Hostile files by the thousand: a typed error or a model, never a crash, never much memory.

Each example is a valid file, changed: bytes replaced, inserted and removed, cut off, numbers put where
counts and offsets lie; or bytes that are random from the start. Bytes are drawn by plain loops, since
they are many; structures by hypothesis. The slow tests are the same, with more.
"""

import json
import random
import struct
import tracemalloc
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slipstream.checkpoint.folder import FolderCheckpoint
from slipstream.checkpoint.gguf_checkpoint import GGUFCheckpoint
from slipstream.checkpoint.gguf_header import read_header
from slipstream.checkpoint.safetensors import SafetensorsFile
from slipstream.checkpoint.safetensors_write import write_safetensors
from slipstream.errors import GGUFError, SafetensorsError, SlipstreamError

MOST_MEMORY = 8 << 20  # the files have a few KiB
NUMBERS = [0, 1, 2, 31, 255, 256, 65535, 1 << 20, 1 << 31, (1 << 32) - 1, 1 << 40, 1 << 62, 1 << 63, (1 << 64) - 1, (1 << 64) - 32]  # fmt: skip
KINDS = ["set", "number", "insert", "remove", "repeat", "cut"]
JSON_NUMBERS = [
    0,
    1,
    -1,
    7,
    2**31,
    2**63,
    2**64,
    10**30,
    0.5,
    1e308,
    None,
    True,
    "",
    "x",
    [],
    [1],
    {},
]


def examples(count: int):
    return settings(
        max_examples=count,
        deadline=None,
        database=None,
        derandomize=count < 1_000,
        suppress_health_check=list(HealthCheck),
    )


edits = st.lists(
    st.tuples(
        st.sampled_from(KINDS),
        st.integers(0, 1 << 20),
        st.binary(min_size=1, max_size=12),
        st.sampled_from(NUMBERS),
    ),
    max_size=6,
)


def edited(content: bytes, changes: list[tuple[str, int, bytes, int]]) -> bytes:
    for kind, place, drawn, number in changes:
        at = place % (len(content) + 1)
        piece = struct.pack("<Q", number) if kind == "number" else drawn
        if kind == "cut":
            content = content[:at]
        elif kind == "remove":
            content = content[:at] + content[at + len(piece) :]
        elif kind == "repeat":
            content = content[:at] + content[at : at + 64] + content[at:]
        else:
            behind = at if kind == "insert" else at + len(piece)
            content = content[:at] + piece + content[behind:]
    return content


class Guard:
    """Runs something that may fail in typed ways, and counts how it ended."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()

    def __call__(
        self, action: Callable[[], Any], *typed: type[Exception], seed: int | None = None
    ) -> None:
        tracemalloc.start()
        try:
            action()
            self.outcomes["read"] += 1
        except typed as error:
            assert str(error), "an error without words"
            self.outcomes[type(error).__name__] += 1
        except Exception:
            print(f"failed with the seed {seed}")
            raise
        finally:
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        assert peak < MOST_MEMORY, f"{peak} bytes were allocated, with the seed {seed}"


@pytest.fixture(scope="module")
def guard():
    guard = Guard()
    yield guard
    print(f"\n{sum(guard.outcomes.values())} examples: {dict(guard.outcomes)}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


def read_whole_gguf(path) -> None:
    checkpoint = GGUFCheckpoint(path)
    dict(checkpoint.file.metadata)
    for name in checkpoint.names():
        checkpoint.tensor(name).dequantize()


def read_whole_header(content: bytes) -> None:
    dict(read_header(content).metadata)


def random_edits(draw: random.Random) -> list[tuple[str, int, bytes, int]]:
    """What `edits` generates, faster."""
    return [
        (
            draw.choice(KINDS),
            draw.randrange(1 << 20),
            draw.randbytes(draw.randint(1, 12)),
            draw.choice(NUMBERS),
        )
        for _ in range(draw.randint(0, 4))
    ]


def fuzz_gguf_headers(guard, gguf_bytes, tiny_llama, count):
    valid = gguf_bytes(*tiny_llama)
    head = valid[: valid.index(b"blk.0.ffn_down") + 80]
    for seed in range(count):
        draw = random.Random(seed)
        content = edited(head if seed % 2 else valid, random_edits(draw))
        guard(lambda content=content: read_whole_header(content), GGUFError, seed=seed)


def fuzz_safetensors_headers(guard, folder, count):
    write_safetensors(
        folder / "x.safetensors",
        {"a": np.ones((4, 32), np.int8), "b": np.ones(3)},
        {"format": "pt"},
    )
    valid = (folder / "x.safetensors").read_bytes()
    for seed in range(count):
        (folder / "x.safetensors").write_bytes(edited(valid, random_edits(random.Random(seed))))
        guard(lambda: SafetensorsFile(folder / "x.safetensors"), SafetensorsError, seed=seed)


def fuzz_random_bytes(guard, folder, count):
    prefixes = [b"", b"GGUF", b"GGUF\x03\0\0\0", b"GGUF\x02\0\0\0\x01" + bytes(7)]
    for seed in range(count):
        draw = random.Random(seed)
        content = draw.randbytes(draw.randint(0, 300))
        header = draw.choice(prefixes) + content
        guard(lambda header=header: read_whole_header(header), GGUFError, seed=seed)
        text = content if seed % 2 else bytes(b'{}[],:"ab01.-'[byte % 13] for byte in content)
        (folder / "x.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)
        guard(lambda: SafetensorsFile(folder / "x.safetensors"), SafetensorsError, seed=seed)


values = st.one_of(
    st.integers(0, (1 << 32) - 1),
    st.sampled_from([0, 1, 2, 3, 8, 16, 64, 128]),
    st.integers(-(1 << 40), 1 << 40),
    st.floats(width=32),
    st.booleans(),
    st.text(max_size=8),
    st.lists(st.integers(0, 9), max_size=3),
    st.lists(st.text(max_size=3), min_size=1, max_size=3),
)
ARCHITECTURES = ["llama", "smollm3", "qwen2", "qwen3", "gemma2", "gemma3", "phi3", "olmo2", "gpt2"]
NAMES = ["rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight", "output.weight", "blk.0.attn_q.bias", "blk.1.attn_qkv.weight", "blk.0.attn_q.weight", "strange", "blk.99999999.x.weight", ""]  # fmt: skip
tensors = st.tuples(
    st.lists(st.sampled_from([1, 2, 4, 16, 32, 64, 256, 1 << 40]), min_size=1, max_size=4),
    st.sampled_from(
        [0, 1, 2, 3, 6, 7, 8, 10, 11, 12, 13, 14, 16, 20, 23, 24, 26, 28, 30, 34, 35, 39]
    ),
    st.binary(min_size=64, max_size=64),
)


def fuzz_gguf_models(guard, folder, gguf_bytes, tiny_llama, count):
    keys = [key for key in tiny_llama[0] if key.startswith("llama.")]
    suffixes = [key.removeprefix("llama.") for key in keys] + ["rope.scaling.type", "rope.scaling.factor", "attention.key_length", "attention.sliding_window", "rope.dimension_count", "expert_count"]  # fmt: skip

    @examples(count)
    @given(
        st.sampled_from(ARCHITECTURES),
        st.dictionaries(st.sampled_from(suffixes), values, max_size=3),
        st.dictionaries(st.sampled_from(NAMES), tensors, max_size=2),
        edits,
        st.integers(0, 3),
    )
    def run(architecture, changed, more, changes, damage):
        metadata = {
            key.replace("llama.", f"{architecture}."): value for key, value in tiny_llama[0].items()
        }
        metadata["general.architecture"] = architecture
        metadata |= {f"{architecture}.{key}": value for key, value in changed.items()}
        added = {
            name: (dims, kind, raw * min(64, int(np.prod(dims, dtype=float))))
            for name, (dims, kind, raw) in more.items()
        }
        content = gguf_bytes(metadata, tiny_llama[1] | added)
        (folder / "m.gguf").write_bytes(edited(content, changes) if damage == 0 else content)
        guard(lambda: read_whole_gguf(folder / "m.gguf"), SlipstreamError)

    run()


def fuzz_folders(guard, folder, count):
    arrays = {
        "a.weight": np.ones((4, 32), np.int8),
        "a.weight_scale": np.ones((4, 1), np.float32),
        "b": np.ones(3),
    }
    write_safetensors(folder / "model.safetensors", arrays, {"format": "pt"})
    valid = (folder / "model.safetensors").read_bytes()
    length = 8 + int.from_bytes(valid[:8], "little")
    header = json.loads(valid[8:length])
    config = {
        "model_type": "llama",
        "architectures": ["L"],
        "eos_token_id": 1,
        "quantization_config": {
            "quant_method": "compressed-tensors",
            "format": "int-quantized",
            "config_groups": {"g": {"targets": ["Linear"], "weights": {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"}}},
        },
    }  # fmt: skip
    places = st.lists(st.tuples(st.integers(0, 60), st.sampled_from(JSON_NUMBERS)), max_size=3)

    @examples(count)
    @given(places, places, edits, st.integers(0, 3))
    def run(in_header, in_config, changes, damage):
        text = json.dumps(replaced(header, in_header)).encode()
        content = struct.pack("<Q", len(text)) + text + valid[length:]
        (folder / "model.safetensors").write_bytes(
            edited(content, changes) if damage == 0 else content
        )
        settings_text = json.dumps(replaced(config, in_config)).encode()
        (folder / "config.json").write_bytes(
            edited(settings_text, changes) if damage == 1 else settings_text
        )
        guard(lambda: read_whole_folder(folder), SlipstreamError)

    run()


def read_whole_folder(folder) -> None:
    checkpoint = FolderCheckpoint(folder)
    for name in checkpoint.names():
        checkpoint.tensor(name).dequantize()


def replaced(value: Any, changes: list[tuple[int, Any]]) -> Any:
    """A copy of a JSON value with some of its leaves and branches replaced."""
    value = json.loads(json.dumps(value))
    for place, new in changes:
        spots = list(places_in(value))
        holder, key = spots[place % len(spots)] if spots else ({}, "")
        holder[key] = json.loads(json.dumps(new))  # a copy: no value may hold itself
    return value


def places_in(value: Any):
    entries = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, entry in list(entries):
        yield value, key
        yield from places_in(entry)


def test_edited_gguf_headers_are_read_or_refused(guard, gguf_bytes, tiny_llama):
    fuzz_gguf_headers(guard, gguf_bytes, tiny_llama, 3000)


def test_random_bytes_are_refused(guard, folder):
    fuzz_random_bytes(guard, folder, 500)


def test_edited_safetensors_are_read_or_refused(guard, folder):
    fuzz_safetensors_headers(guard, folder, 1000)


def test_strange_gguf_models_are_read_or_refused(guard, folder, gguf_bytes, tiny_llama):
    fuzz_gguf_models(guard, folder, gguf_bytes, tiny_llama, 150)


def test_strange_folders_are_read_or_refused(guard, folder):
    fuzz_folders(guard, folder, 150)


@pytest.mark.slow
def test_edited_gguf_headers_by_the_ten_thousand(guard, gguf_bytes, tiny_llama):
    fuzz_gguf_headers(guard, gguf_bytes, tiny_llama, 40_000)


@pytest.mark.slow
def test_random_bytes_by_the_ten_thousand(guard, folder):
    fuzz_random_bytes(guard, folder, 10_000)


@pytest.mark.slow
def test_edited_safetensors_by_the_ten_thousand(guard, folder):
    fuzz_safetensors_headers(guard, folder, 20_000)


@pytest.mark.slow
def test_strange_gguf_models_by_the_ten_thousand(guard, folder, gguf_bytes, tiny_llama):
    fuzz_gguf_models(guard, folder, gguf_bytes, tiny_llama, 10_000)


@pytest.mark.slow
def test_strange_folders_by_the_ten_thousand(guard, folder):
    fuzz_folders(guard, folder, 10_000)

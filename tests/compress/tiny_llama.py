"""A llama of two blocks with random weights, as editions and drives of compression."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from slipstream.backends.batch import single
from slipstream.backends.reference import compile_reference
from slipstream.compress.work import Drive, Edition
from slipstream.formats.tensor import DenseTensor, Tensor
from slipstream.graph.graph import Graph
from slipstream.models.registry import blueprint_of

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64,
    "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 80, "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5, "tie_word_embeddings": True, "hidden_act": "silu",
}  # fmt: skip


def edition(seed: int = 1, **changes: Any) -> Edition:
    """Random weights, norms near one."""
    config = {**CONFIG, **changes}
    blueprint = blueprint_of(config)
    random = np.random.default_rng(seed)
    weights = {
        name: DenseTensor((random.normal(size=shape) * 0.2 + (len(shape) == 1)).astype(np.float32))
        for name, shape in blueprint.shapes.items()
    }
    return Edition(config, blueprint.graph, weights)


def compile_plain(graph: Graph, weights: Mapping[str, Tensor]):
    return compile_reference(graph, weights)


def drive(folder: Path, count: int = 4, length: int = 32, **more: Any) -> Drive:
    """The reference backend and a random text."""
    chunks = np.random.default_rng(2).integers(0, 80, (count, length)).astype(np.int32)
    return Drive(compile_plain, chunks, folder, **more)


def logits(edition: Edition, count: int = 20) -> np.ndarray:
    """float64 logits of one text."""
    program = compile_reference(edition.graph, edition.weights, dtype="float64")
    ids = np.random.default_rng(3).integers(0, edition.graph.vocabulary, count).astype(np.int32)
    return np.asarray(program.step(single(ids, all_logits=True), program.new_kv(1)))

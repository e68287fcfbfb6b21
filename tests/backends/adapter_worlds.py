"""Random adapters and tiny models for the tests of adapters."""

from pathlib import Path

import ml_dtypes
import numpy as np

from slipstream.checkpoint.peft import Adapter, LowRankPair
from slipstream.formats.affine import quantize_affine
from slipstream.formats.tensor import Affine, DenseTensor
from slipstream.models.registry import blueprint_of

VOCABULARY = 97
SIZES = {
    "vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 104, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 20,
    "max_position_embeddings": 512, "rms_norm_eps": 1e-6, "rope_theta": 1e4,
}  # fmt: skip
GEMMA = {
    "sliding_window": 24, "query_pre_attn_scalar": 16, "hidden_activation": "gelu_pytorch_tanh",
    "layer_types": ["sliding_attention", "full_attention"],
}  # fmt: skip
MODELS = {
    "llama": ("LlamaForCausalLM", {}),
    "qwen2": ("Qwen2ForCausalLM", {"tie_word_embeddings": True}),
    "gemma3_text": ("Gemma3ForCausalLM", GEMMA),
    "phi3": ("Phi3ForCausalLM", {"sliding_window": None, "head_dim": 16}),
    "gpt2": (
        "GPT2LMHeadModel",
        {"n_embd": 64, "n_head": 4, "n_layer": 2, "n_positions": 512, "layer_norm_epsilon": 1e-5},
    ),
}
DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


def tiny_model(name, affine=None, seed=3):
    """(graph, weights): dense, or affine where the format fits."""
    architecture, more = MODELS[name]
    blueprint = blueprint_of(SIZES | more | {"architectures": [architecture], "model_type": name})
    rng = np.random.default_rng(seed)
    weights = {}
    for weight, shape in blueprint.shapes.items():
        values = rng.normal(0, 0.12, shape).astype(np.float32)
        fits = affine is not None and len(shape) == 2 and shape[1] % affine.group == 0
        weights[weight] = quantize_affine(values, affine) if fits else DenseTensor(values)
    return blueprint.graph, weights


INT4 = Affine(4, 32)


def random_adapter(shapes, seed=0, rank=5, dtype="float32", size=0.2, choose=lambda module: True):
    """An adapter for the modules in `shapes` ({module: (out, in)}) that `choose` wants."""
    rng = np.random.default_rng(seed)
    pairs = {}
    for module, (outputs, inputs) in shapes.items():
        down = rng.normal(0, size, (rank, inputs)).astype(DTYPES[dtype])
        up = rng.normal(0, size, (outputs, rank)).astype(DTYPES[dtype])
        if choose(module):
            pairs[module] = LowRankPair(down, up, scale=float(rng.uniform(0.3, 1.5)))
    return Adapter(Path("random"), pairs, f"hash-{seed}")

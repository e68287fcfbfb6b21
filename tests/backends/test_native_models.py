"""Whole models, every architecture: the native backend against the reference on random weights."""

import numpy as np
import pytest

from slipstream.backends.batch import single
from slipstream.backends.native import NativeOptions, compile_native, native_module
from slipstream.backends.reference import compile_reference
from slipstream.errors import MachineError
from slipstream.formats.affine import quantize_affine
from slipstream.formats.tensor import Affine, DenseTensor
from slipstream.models.registry import blueprint_of

try:
    native_module()
except MachineError:
    pytest.skip("the native kernels were not built", allow_module_level=True)

SIZES = {
    "vocab_size": 97, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
    "max_position_embeddings": 256, "rms_norm_eps": 1e-6, "rope_theta": 1e4,
}  # fmt: skip
GEMMA = {
    "sliding_window": 24, "query_pre_attn_scalar": 16, "hidden_activation": "gelu_pytorch_tanh",
    "layer_types": ["sliding_attention", "full_attention"],
}  # fmt: skip
MODELS = {
    "llama": ("LlamaForCausalLM", {}),
    "mistral": ("MistralForCausalLM", {"sliding_window": 24}),
    "qwen2": ("Qwen2ForCausalLM", {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3ForCausalLM", {}),
    "smollm3": ("SmolLM3ForCausalLM", {"no_rope_layers": [1, 0]}),
    "gemma2": (
        "Gemma2ForCausalLM",
        GEMMA | {"attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0},
    ),
    "gemma3_text": ("Gemma3ForCausalLM", GEMMA),
    "phi3": ("Phi3ForCausalLM", {"sliding_window": None}),
    "olmo2": ("Olmo2ForCausalLM", {}),
    "gpt2": (
        "GPT2LMHeadModel",
        {"n_embd": 64, "n_head": 4, "n_layer": 2, "n_positions": 256, "layer_norm_epsilon": 1e-5},
    ),
}


def model_of(name: str, affine: Affine | None):
    architecture, more = MODELS[name]
    blueprint = blueprint_of(SIZES | more | {"architectures": [architecture], "model_type": name})
    rng = np.random.default_rng(3)
    weights = {}
    for weight, shape in blueprint.shapes.items():
        values = rng.normal(0, 0.12, shape).astype(np.float32)
        fits = affine is not None and len(shape) == 2 and shape[1] % affine.group == 0
        weights[weight] = quantize_affine(values, affine) if fits else DenseTensor(values)
    return blueprint.graph, weights


def logits_of(program, ids):
    batch = single(ids, all_logits=True)
    return program.step(batch, program.new_kv(batch.pages.size))


def difference(ours, truth) -> float:
    """The root mean square of the difference, relative to that of the truth."""
    return float(np.sqrt(np.mean((ours - truth) ** 2) / np.mean(truth**2)))


IDS = np.random.default_rng(11).integers(0, 97, 90).astype(np.int32)


@pytest.mark.parametrize("name", MODELS)
def test_dense_models_agree_to_float32(name):
    graph, weights = model_of(name, None)
    native = compile_native(graph, weights, NativeOptions(2, kv_dtype="float32"))
    truth = logits_of(compile_reference(graph, weights), IDS)
    assert difference(logits_of(native, IDS), truth) < 1e-5


@pytest.mark.parametrize("name", MODELS)
def test_affine_models_with_float_activations_agree_to_float32(name):
    graph, weights = model_of(name, Affine(4, 32, "minimum"))
    native = compile_native(graph, weights, NativeOptions(2, "f32", "float32"))
    truth = logits_of(compile_reference(graph, weights), IDS)
    assert difference(logits_of(native, IDS), truth) < 1e-5


@pytest.mark.parametrize("name", MODELS)
def test_affine_models_with_int8_activations_agree_to_their_rounding(name):
    """A value near the middle of two codes may round either way: the error is a code's, not ours."""
    graph, weights = model_of(name, Affine(8, 32))
    native = compile_native(graph, weights, NativeOptions(2, "int8", "float32"))
    truth = logits_of(compile_reference(native.graph, weights), IDS)
    unrounded = logits_of(compile_reference(graph, weights), IDS)
    assert difference(logits_of(native, IDS), truth) < 0.3 * difference(truth, unrounded)

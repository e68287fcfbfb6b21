"""The same model as other files store it: GGUF's conventions, older names, multimodal nesting."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from slipstream.backends.batch import single
from slipstream.backends.reference import compile_reference
from slipstream.formats.tensor import DenseTensor, Tensor
from slipstream.models.registry import blueprint_of
from slipstream.models.weights import Weights


@dataclass
class Rewritten:
    """A tiny model's checkpoint with its config and tensors changed."""

    config: dict[str, Any]
    tensors: dict[str, Any]
    path: Path = Path("rewritten")

    def names(self) -> list[str]:
        return sorted(self.tensors)

    def tensor(self, name: str) -> Tensor:
        return DenseTensor(self.tensors[name])


def rewritten(tiny, **changes):
    tensors = {name: tiny.checkpoint.tensor(name).data for name in tiny.checkpoint.names()}
    return Rewritten({**tiny.checkpoint.config, **changes}, tensors)


def logits_of(checkpoint, ids):
    blueprint = blueprint_of(checkpoint.config)
    weights = Weights(checkpoint, blueprint.shapes, blueprint.spellings)
    program = compile_reference(blueprint.graph, weights)
    return program.step(single(ids, all_logits=True), program.new_kv(2))


def assert_same(tiny, checkpoint):
    ids = tiny.prompts[-1]
    truth = tiny.true_logits(ids)
    assert np.abs(logits_of(checkpoint, ids) - truth).max() / np.abs(truth).max() < 1e-4


def test_gemma_with_the_ones_added_to_its_norms(tiny_of):
    for name in ("gemma2", "gemma3"):
        tiny = tiny_of(name)
        checkpoint = rewritten(tiny, slipstream_norm_offset=0.0)
        for key, values in checkpoint.tensors.items():
            if "norm" in key:
                checkpoint.tensors[key] = values + 1
        assert_same(tiny, checkpoint)


def test_llama3_with_its_scaling_worked_out(tiny_of):
    tiny = tiny_of("llama-3")
    scaled = np.array(tiny.blueprint.graph.node("layers.0.attention.key_rotary").op.frequencies)
    plain = 500.0 ** -(np.arange(4) / 4)
    checkpoint = rewritten(
        tiny,
        rope_parameters=None,
        rope_theta=500.0,
        slipstream_rope_factors=[float(f) for f in plain / scaled],
    )
    assert_same(tiny, checkpoint)


def test_gpt2_with_turned_matrices_and_short_names(tiny_of):
    tiny = tiny_of("gpt2")
    checkpoint = rewritten(tiny, slipstream_conv1d=False)
    matrices = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
    checkpoint.tensors = {
        name.removeprefix("transformer."): values.T if name.endswith(matrices) else values
        for name, values in checkpoint.tensors.items()
    }
    assert "wte.weight" in checkpoint.tensors
    assert_same(tiny, checkpoint)


def test_gemma3_inside_a_multimodal_checkpoint(tiny_of):
    tiny = tiny_of("gemma3")
    for prefix in ("language_model.model.", "model.language_model."):
        checkpoint = rewritten(tiny)
        text = {k: v for k, v in checkpoint.config.items() if k != "model_type"}
        checkpoint.config = {"model_type": "gemma3", "text_config": text, "vision_config": {}}
        checkpoint.tensors = {
            prefix + name.removeprefix("model."): values
            for name, values in checkpoint.tensors.items()
        }
        assert_same(tiny, checkpoint)


def test_fused_matrices_stored_in_parts(tiny_of):
    tiny = tiny_of("phi3")
    checkpoint = rewritten(tiny)
    for name, tensor in tiny.weights.items():
        if "[" in name:
            checkpoint.tensors[name] = tensor.data
    checkpoint.tensors = {
        k: v for k, v in checkpoint.tensors.items() if not k.endswith("qkv_proj.weight")
    }
    assert_same(tiny, checkpoint)

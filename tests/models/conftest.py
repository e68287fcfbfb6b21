"""Tiny random models made by transformers: the truth that every page is held against.

`tiny` runs a test once for every case below; each case is a config small enough to be quick and
odd enough to show a mistake (grouped heads, a head wider than width / heads, prompts longer than
windows and than the context before rotary scaling).
"""

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from slipstream.backends.batch import Program
from slipstream.backends.reference import compile_reference
from slipstream.checkpoint.folder import FolderCheckpoint
from slipstream.models.blocks import Blueprint
from slipstream.models.registry import blueprint_of
from slipstream.models.weights import Weights

SIZES: dict[str, Any] = dict(
    vocab_size=97,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=256,
    pad_token_id=None,
    bos_token_id=1,
    eos_token_id=2,
)
LLAMA3 = dict(
    rope_type="llama3",
    rope_theta=500.0,
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=32,
)
YARN = dict(rope_type="yarn", rope_theta=1000.0, factor=4.0, original_max_position_embeddings=64)
LONGROPE = dict(
    rope_type="longrope",
    rope_theta=1000.0,
    short_factor=[1.0, 1.25, 1.5],
    long_factor=[2.0, 4.0, 6.5],
    partial_rotary_factor=0.75,
)
PHI3 = {**SIZES, "original_max_position_embeddings": 48}
GEMMA = {**SIZES, "head_dim": 12, "sliding_window": 16, "query_pre_attn_scalar": 20}


@dataclass(frozen=True)
class Case:
    """One tiny model: its class in transformers, its config, and what is added to config.json."""

    model: str
    config: dict[str, Any]
    hints: dict[str, Any] = field(default_factory=dict)
    prompts: tuple[int, ...] = (1, 70)


CASES: dict[str, Case] = {
    "llama": Case("Llama", SIZES),
    "llama-tied-biased": Case(
        "Llama", {**SIZES, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}
    ),
    "llama-wide-heads": Case("Llama", {**SIZES, "head_dim": 12, "num_key_value_heads": 4}),
    "llama-3": Case("Llama", {**SIZES, "rope_parameters": LLAMA3}),
    "llama-linear": Case(
        "Llama", {**SIZES, "rope_parameters": dict(rope_type="linear", rope_theta=1e4, factor=2.5)}
    ),
    "llama-yarn": Case("Llama", {**SIZES, "rope_parameters": YARN}),
    "mistral": Case("Mistral", {**SIZES, "sliding_window": 16}),
    "mistral-whole": Case("Mistral", {**SIZES, "sliding_window": None}),
    "qwen2": Case("Qwen2", {**SIZES, "tie_word_embeddings": True}),
    "qwen2-windows": Case(
        "Qwen2",
        {**SIZES, "use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1},
    ),
    "qwen3": Case("Qwen3", {**SIZES, "head_dim": 12}),
    "qwen3-yarn": Case("Qwen3", {**SIZES, "head_dim": 8, "rope_parameters": YARN}),
    "smollm3": Case("SmolLM3", {**SIZES, "num_hidden_layers": 4, "no_rope_layer_interval": 2}),
    "smollm3-windows": Case(
        "SmolLM3",
        {
            **SIZES,
            "no_rope_layers": [0, 1],
            "use_sliding_window": True,
            "sliding_window": 16,
            "tie_word_embeddings": False,
        },
    ),
    "gemma2": Case("Gemma2", {**GEMMA, "attn_logit_softcapping": 5.0}),
    "gemma2-no-caps": Case(
        "Gemma2", {**GEMMA, "attn_logit_softcapping": None, "final_logit_softcapping": None}
    ),
    "gemma3": Case("Gemma3", {**GEMMA, "layer_types": ["sliding_attention", "full_attention"]}),
    "gemma3-pattern": Case(
        "Gemma3",
        {
            **GEMMA,
            "num_hidden_layers": 3,
            "sliding_window_pattern": 2,
            "rope_scaling": dict(rope_type="linear", factor=4.0),
            "rope_theta": 5000.0,
            "rope_local_base_freq": 100.0,
        },
    ),
    "phi3": Case("Phi3", {**PHI3, "sliding_window": 16}),
    "phi3-short": Case("Phi3", {**PHI3, "rope_parameters": LONGROPE}, prompts=(1, 48)),
    "phi3-long": Case(
        "Phi3", {**PHI3, "rope_parameters": LONGROPE}, {"slipstream_rope_long": True}, (49, 70)
    ),
    "olmo2": Case("Olmo2", SIZES),
    "olmo2-biased": Case("Olmo2", {**SIZES, "attention_bias": True, "num_key_value_heads": 4}),
    "gpt2": Case("GPT2", dict(vocab_size=97, n_embd=32, n_layer=2, n_head=4, n_positions=128)),
    "gpt2-odd": Case(
        "GPT2",
        dict(
            vocab_size=97,
            n_embd=32,
            n_layer=2,
            n_head=4,
            n_positions=128,
            n_inner=40,
            activation_function="gelu",
            scale_attn_by_inverse_layer_idx=True,
            tie_word_embeddings=False,
        ),
    ),
}


@dataclass
class Tiny:
    """A tiny model in both worlds."""

    name: str
    folder: Path
    truth: Any  # the transformers model
    checkpoint: FolderCheckpoint
    blueprint: Blueprint
    prompts: list[NDArray[np.int32]]

    @property
    def weights(self) -> Weights:
        return Weights(self.checkpoint, self.blueprint.shapes, self.blueprint.spellings)

    def program(self, **options: Any) -> Program:
        return compile_reference(self.blueprint.graph, self.weights, **options)

    def true_logits(self, ids: NDArray[np.int32]) -> NDArray[np.float32]:
        torch = pytest.importorskip("torch")
        with torch.no_grad():
            output = self.truth(torch.tensor(ids[None].astype(np.int64)), use_cache=False)
        return output.logits[0].numpy()


def make_tiny(name: str, folder: Path) -> Tiny:
    case = CASES[name]
    model = random_model(case)
    model.save_pretrained(folder)
    config = {**json.loads((folder / "config.json").read_text()), **case.hints}
    (folder / "config.json").write_text(json.dumps(config))
    checkpoint = FolderCheckpoint(folder)
    rng = np.random.default_rng(0)
    prompts = [rng.integers(0, 97, count).astype(np.int32) for count in case.prompts]
    return Tiny(name, folder, model, checkpoint, blueprint_of(checkpoint.config), prompts)


def random_model(case: Case) -> Any:
    """Weights large enough that attention is far from uniform and caps are felt."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    suffix = "TextConfig" if case.model == "Gemma3" else "Config"
    config = getattr(transformers, case.model + suffix)(**case.config)
    head = "LMHeadModel" if case.model == "GPT2" else "ForCausalLM"
    config._attn_implementation = "eager"
    model = getattr(transformers, case.model + head)(config).float().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn_like(parameter)
            parameter.copy_(noise * 0.3 if parameter.ndim == 2 else parameter + noise * 0.2)
    return model


@pytest.fixture(scope="session")
def tiny_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Tiny]:
    """The tiny model of a case; each is made once in a session."""
    return functools.cache(lambda name: make_tiny(name, tmp_path_factory.mktemp(name)))


@pytest.fixture(params=sorted(CASES))
def tiny(request: pytest.FixtureRequest, tiny_of: Callable[[str], Tiny]) -> Tiny:
    """One case after another."""
    return tiny_of(request.param)

"""Rotations change no logits, only how the weights lie."""

import sys
from pathlib import Path

import numpy as np
import pytest

from slipstream.compress.carry_out import carry_out
from slipstream.compress.chain import read_chain
from slipstream.compress.passes.hadamard import hadamard_like, rotation
from slipstream.compress.passes.rotate import Rotate
from slipstream.compress.passes.smoothquant import SmoothQuant, smoothing
from slipstream.errors import UnsupportedError

sys.path.insert(0, str(Path(__file__).parent))
import tiny_llama


@pytest.mark.parametrize("width", [1, 2, 4, 8, 12, 20, 24, 28, 36, 44, 64, 576, 1536, 96])
def test_hadamard_matrices_are_flat_and_orthogonal(width: int) -> None:
    matrix = hadamard_like(width, np.random.default_rng(0))
    assert np.allclose(matrix @ matrix.T, np.eye(width), atol=1e-10)
    assert np.allclose(np.abs(matrix), width**-0.5)


@pytest.mark.parametrize("width", [3, 18, 70, 200])
def test_other_widths_are_rotated_too(width: int) -> None:
    matrix = rotation(width, seed=5)
    assert np.allclose(matrix @ matrix.T, np.eye(width), atol=1e-10)
    assert np.array_equal(matrix, rotation(width, seed=5))
    assert not np.array_equal(matrix, rotation(width, seed=6))


@pytest.mark.parametrize(
    "changes",
    [
        {}, {"tie_word_embeddings": False}, {"model_type": "qwen3", "head_dim": 16},
        {"model_type": "qwen2"}, {"attention_bias": True, "mlp_bias": True}, {"hidden_size": 72, "head_dim": 16},
    ],
)  # fmt: skip
def test_logits_stay(tmp_path: Path, changes: dict) -> None:
    edition = tiny_llama.edition(**changes)
    after = Rotate(seed=3).run(edition, tiny_llama.drive(tmp_path))
    wanted = tiny_llama.logits(edition)
    assert np.abs(tiny_llama.logits(after) - wanted).max() < 1e-4 * np.abs(wanted).max()
    gains = after.weights["model.layers.0.input_layernorm.weight"].dequantize()
    assert np.array_equal(gains, np.ones_like(gains))
    assert after.config["tie_word_embeddings"] is False
    outline = Rotate().outline(edition)
    assert set(outline.graph.weight_names()) == set(after.graph.weight_names())


def test_loud_channels_become_quiet(tmp_path: Path) -> None:
    edition = tiny_llama.edition()
    name = "model.layers.0.mlp.up_proj.weight"
    edition.weights[name].data[:, 7] *= 30  # type: ignore[union-attr]
    after = Rotate().run(edition, tiny_llama.drive(tmp_path))

    def loudness(weights) -> float:
        size = np.abs(weights[name].dequantize()).max(axis=0)
        return float(size.max() / np.median(size))

    assert loudness(after.weights) < 0.2 * loudness(edition.weights)


@pytest.mark.parametrize("kind", ["gemma2", "olmo2"])
def test_what_does_not_commute_is_refused(tmp_path: Path, kind: str) -> None:
    more = (
        {"query_pre_attn_scalar": 16, "head_dim": 16, "sliding_window": 64}
        if kind == "gemma2"
        else {}
    )
    edition = tiny_llama.edition(model_type=kind, **more)
    with pytest.raises(UnsupportedError, match="cannot be rotated"):
        Rotate().run(edition, tiny_llama.drive(tmp_path))


@pytest.mark.parametrize(
    "changes",
    [
        {}, {"model_type": "qwen3", "head_dim": 16}, {"model_type": "qwen2"}, {"model_type": "phi3"},
        {"model_type": "gemma3_text", "head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 8},
        {"attention_bias": True, "mlp_bias": True}, {"model_type": "olmo2"},
    ],
)  # fmt: skip
def test_scales_fold_into_every_architecture(tmp_path: Path, changes: dict) -> None:
    edition = tiny_llama.edition(**changes)
    after = SmoothQuant().run(edition, tiny_llama.drive(tmp_path))
    wanted = tiny_llama.logits(edition)
    assert np.abs(tiny_llama.logits(after) - wanted).max() < 1e-4 * np.abs(wanted).max()
    changed = [n for n in edition.weights if after.weights[n] is not edition.weights[n]]
    assert len(changed) >= 9


def test_smoothing_changes_no_logits(tmp_path: Path) -> None:
    edition = tiny_llama.edition(num_key_value_heads=2)
    after = SmoothQuant(alpha=0.6).run(edition, tiny_llama.drive(tmp_path))
    wanted = tiny_llama.logits(edition)
    assert np.abs(tiny_llama.logits(after) - wanted).max() < 1e-4 * np.abs(wanted).max()
    changed = [n for n in edition.weights if after.weights[n] is not edition.weights[n]]
    assert "model.layers.0.self_attn.v_proj.weight" in changed
    assert "model.layers.0.post_attention_layernorm.weight" in changed


def test_smoothing_follows_the_paper() -> None:
    x, w = np.array([4.0, 0.0, 1.0], np.float32), np.array([1.0, 1.0, 0.25], np.float32)
    assert np.allclose(smoothing(x, w, 0.5), [2.0, 1.0, 2.0])


def test_passes_after_each_other(tmp_path: Path) -> None:
    chain = read_chain("[[pass]]\nmethod='rotate'\n[[pass]]\nmethod='gptq'\ngroup=32\nbits=8\n")
    edition, drive = tiny_llama.edition(), tiny_llama.drive(tmp_path)
    after = carry_out(chain, edition, tiny_llama.compile_plain, drive.chunks, tmp_path)
    wanted = tiny_llama.logits(edition)
    assert np.abs(tiny_llama.logits(after) - wanted).mean() < 0.1 * np.abs(wanted).mean()
    again = carry_out(chain, edition, tiny_llama.compile_plain, drive.chunks, tmp_path)
    assert np.array_equal(tiny_llama.logits(again), tiny_llama.logits(after))

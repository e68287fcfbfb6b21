"""Factors that lose least on the inputs, and blocks that share weights."""

import sys
from pathlib import Path

import numpy as np
import pytest

from slipstream.compress.carry_out import carry_out
from slipstream.compress.chain import read_chain
from slipstream.compress.passes.low_rank import LowRank, factor
from slipstream.compress.passes.share_layers import ShareLayers
from slipstream.errors import UnsupportedError
from slipstream.formats.tensor import AffineTensor

sys.path.insert(0, str(Path(__file__).parent))
import tiny_llama

UP = "model.layers.0.mlp.up_proj.weight"


def test_factors_lose_exactly_the_singular_values_left_out() -> None:
    random = np.random.default_rng(1)
    x = random.normal(size=(500, 24)) @ random.normal(size=(24, 24))
    weight = random.normal(size=(16, 24)).astype(np.float32)
    hessian = (x.T @ x / len(x)).astype(np.float32)
    a, b = factor(weight, hessian, rank=6, damping=1e-9)
    assert a.shape == (6, 24) and b.shape == (16, 6)
    lost = np.square(x @ (weight - b @ a).T).sum(axis=1).mean()
    values = np.linalg.svd(x @ weight.T / np.sqrt(len(x)), compute_uv=False)
    assert lost == pytest.approx(np.square(values[6:]).sum(), rel=1e-3)
    u, s, v = np.linalg.svd(weight, full_matrices=False)
    plain = (u[:, :6] * s[:6]) @ v[:6]
    assert lost < np.square(x @ (weight - plain).T).sum(axis=1).mean()


def test_a_factored_model_runs_and_is_smaller(tmp_path: Path) -> None:
    edition = tiny_llama.edition()
    one = LowRank(share=0.6, multiple=4)
    after = one.run(edition, tiny_llama.drive(tmp_path))
    rank = after.config["slipstream"]["low_rank"][UP]
    assert rank == one.rank((96, 64)) == 20
    assert after.weights[UP.replace(".weight", ".a.weight")].shape == (20, 64)
    assert np.isfinite(tiny_llama.logits(after)).all()
    outline = one.outline(edition)
    assert outline.graph == after.graph
    full = LowRank(share=0.999, multiple=1, damping=1e-6).run(
        edition, tiny_llama.drive(tmp_path / "2")
    )
    wanted = tiny_llama.logits(edition)
    near, far = (np.square(tiny_llama.logits(d) - wanted).mean() for d in (full, after))
    assert near < far


def test_matrices_that_factors_would_not_make_smaller_stay_whole_and_are_named(
    tmp_path: Path,
) -> None:
    edition = tiny_llama.edition()
    after = LowRank(share=0.5, multiple=32).run(edition, tiny_llama.drive(tmp_path))
    whole = {note.weight for note in after.notes}
    assert "model.layers.0.self_attn.q_proj.weight" in whole  # 64 x 64: rank 32 has as many numbers
    assert UP not in whole
    with pytest.raises(UnsupportedError, match="no selected matrix becomes smaller"):
        LowRank(share=0.5, multiple=64).outline(edition)


def test_factors_can_be_quantized(tmp_path: Path) -> None:
    chain = read_chain(
        "[[pass]]\nmethod='low_rank'\nshare=0.7\nmultiple=32\n[[pass]]\nmethod='gptq'\ngroup=32\n"
    )
    edition, drive = tiny_llama.edition(), tiny_llama.drive(tmp_path)
    after = carry_out(chain, edition, tiny_llama.compile_plain, drive.chunks, tmp_path)
    assert isinstance(after.weights[UP.replace(".weight", ".b.weight")], AffineTensor)
    assert np.isfinite(tiny_llama.logits(after)).all()


def test_blocks_share_the_mean_of_their_weights(tmp_path: Path) -> None:
    edition = tiny_llama.edition()
    after = ShareLayers(every=2).run(edition, tiny_llama.drive(tmp_path))
    assert after.config["slipstream"]["shares"] == [0, 0, 2]
    assert after.graph == ShareLayers(every=2).outline(edition).graph
    assert len(after.graph.weight_names()) == len(edition.graph.weight_names()) - 9
    mean = (
        edition.weights[UP].dequantize() + edition.weights[UP.replace("0", "1")].dequantize()
    ) / 2
    assert np.allclose(after.weights[UP].dequantize(), mean)
    assert np.isfinite(tiny_llama.logits(after)).all()
    with pytest.raises(UnsupportedError, match="share weights already"):
        ShareLayers().run(after, tiny_llama.drive(tmp_path / "again"))


def test_shared_weights_are_compressed_once(tmp_path: Path) -> None:
    text = "[[pass]]\nmethod='share_layers'\n[[pass]]\nmethod='wanda'\n[[pass]]\nmethod='awq'\ngroup=32\n"
    edition, drive = tiny_llama.edition(), tiny_llama.drive(tmp_path)
    after = carry_out(read_chain(text), edition, tiny_llama.compile_plain, drive.chunks, tmp_path)
    assert isinstance(after.weights[UP], AffineTensor)
    zeros = float(np.mean(after.weights[UP].dequantize() == 0))
    assert zeros >= 0.5 and np.isfinite(tiny_llama.logits(after)).all()

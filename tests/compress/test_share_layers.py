"""Blocks that share weights, with low-rank corrections of their own."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from slipstream.compress.chain import parse_chain
from slipstream.compress.passes.share_layers import ShareLayers, truncated
from slipstream.errors import FileFormatError, UnsupportedError
from slipstream.models.registry import blueprint_of

sys.path.insert(0, str(Path(__file__).parent))
import tiny_llama
from test_structured import both_backends_agree, comes_back_from_disk


@pytest.mark.parametrize("weights", ["mean", "first"])
def test_corrections_of_full_rank_give_every_layer_its_own_matrices_back(
    tmp_path: Path, weights
) -> None:
    edition = tiny_llama.edition(num_key_value_heads=4)
    after = ShareLayers(every=2, weights=weights, rank=64).run(edition, tiny_llama.drive(tmp_path))
    norms = {n: t for n, t in after.weights.items() if "layernorm" in n and n.split(".")[2] in "02"}
    norms |= {n.replace("layers.0", "layers.1"): t for n, t in norms.items() if "layers.0" in n}
    like = replace(edition, weights={**edition.weights, **norms})
    assert np.allclose(tiny_llama.logits(after), tiny_llama.logits(like), atol=1e-3)


def test_corrected_layers_share_one_copy_and_run_natively(tmp_path: Path) -> None:
    edition = tiny_llama.edition(num_hidden_layers=4)
    plain = ShareLayers(every=4).run(edition, tiny_llama.drive(tmp_path / "plain"))
    after = ShareLayers(every=4, rank=16).run(edition, tiny_llama.drive(tmp_path / "corrected"))
    shapes = {n: after.weights[n].shape for n in after.graph.weight_names()}
    mine = {n: s for n, s in shapes.items() if "correction" in n}
    assert set(shapes) - set(mine) == set(plain.graph.weight_names())
    assert (
        mine["model.layers.3.mlp.down_proj.correction.a.weight"] == (16, 96)
        and len(mine) == 4 * 7 * 2
    )
    outline = ShareLayers(every=4, rank=16).outline(edition)
    assert {n: outline.weights[n].shape for n in outline.graph.weight_names()} == shapes
    both_backends_agree(after)
    comes_back_from_disk(after, tmp_path / "disk")


def test_a_layer_that_shares_with_none_has_no_correction(tmp_path: Path) -> None:
    after = ShareLayers(every=2, rank=16).run(tiny_llama.edition(), tiny_llama.drive(tmp_path))
    assert not [n for n in after.graph.weight_names() if "layers.2" in n and "correction" in n]


def test_factors_are_the_nearest_of_their_rank() -> None:
    random = np.random.default_rng(0)
    matrix = random.normal(size=(20, 30)).astype(np.float32)
    a, b = truncated(matrix, 16)
    sigma = np.linalg.svd(matrix, compute_uv=False)
    assert np.square(b @ a - matrix).sum() == pytest.approx(np.square(sigma[16:]).sum(), rel=1e-4)
    a, b = truncated(np.zeros((20, 30), np.float32), 16)
    assert (b == 0).all() and np.abs(a).max() > 0  # so that B has a gradient


def test_sharing_is_healed_by_distillation(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from test_training import Heard, corpus

    from slipstream.compress.carry_out import carry_out

    chain = parse_chain({"pass": [
        {"method": "share_layers", "every": 3, "rank": 16},
        {"method": "distill", "tokens": 1024, "batch": 128, "rate": 2e-3, "held_out": 2},
    ]})  # fmt: skip
    heard = Heard()
    after = carry_out(chain, tiny_llama.edition(), tiny_llama.compile_plain, None, tmp_path,
                      corpus=corpus(40, 128), watcher=heard)  # fmt: skip
    words = heard.lines[-1].split()
    assert float(words[4]) < 0.98 * float(words[2])
    name = "model.layers.2.mlp.up_proj.correction.b.weight"
    assert name in after.weights and np.isfinite(tiny_llama.logits(after)).all()


def test_corrections_that_fit_nothing_are_refused(tmp_path: Path) -> None:
    edition = tiny_llama.edition()
    for options in (ShareLayers(rank=8), ShareLayers(rank=48), ShareLayers(rank=-16)):
        with pytest.raises(UnsupportedError, match="rank"):
            options.run(edition, tiny_llama.drive(tmp_path))
    with pytest.raises(FileFormatError, match="goes with shares"):
        blueprint_of({**tiny_llama.CONFIG, "slipstream": {"correction_rank": 16}})

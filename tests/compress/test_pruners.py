"""Pruning against slow forms: masks by sorting, SparseGPT by the paper's equations."""

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.compress.moments import Moments
from slipstream.compress.passes.gptq import factor_hessian
from slipstream.compress.passes.masks import mask_of
from slipstream.compress.passes.pruners import (
    Magnitude,
    SparseGpt,
    Wanda,
    owl_ratios,
    spread_ratios,
)
from slipstream.compress.passes.sparsegpt import sparsegpt
from slipstream.formats.tensor import DenseTensor

sys.path.insert(0, str(Path(__file__).parent))
import tiny_llama

UP = "model.layers.0.mlp.up_proj.weight"


def inputs(rows: int = 300, width: int = 64, seed: int = 1) -> np.ndarray:
    random = np.random.default_rng(seed)
    x = random.normal(size=(rows, width)) @ (random.normal(size=(width, width)) / 8 + 0.2)
    x[:, ::9] *= 5
    return x.astype(np.float32)


def moments_of(x: np.ndarray) -> Moments:
    return Moments((x.T @ x / len(x)).astype(np.float32), np.abs(x).max(axis=0))


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    sparsity=st.sampled_from([0.1, 0.5, 0.75]),
    pattern=st.sampled_from(["unstructured", "2:4", "4:8", "block"]),
    by_row=st.booleans(),
)
def test_masks_take_the_lowest(seed: int, sparsity: float, pattern: str, by_row: bool) -> None:
    scores = np.random.default_rng(seed).random((6, 64)).astype(np.float32)
    mask = mask_of(scores, pattern, sparsity, block=16, by_row=by_row)  # type: ignore[arg-type]
    if ":" in pattern:
        keep, run = map(int, pattern.split(":"))
        for gone, score in zip(mask.reshape(-1, run), scores.reshape(-1, run), strict=True):
            assert gone.sum() == run - keep and score[gone].max() < score[~gone].min()
        return
    units = scores if pattern == "unstructured" else scores.reshape(6, 4, 16).sum(-1)
    gone = mask if pattern == "unstructured" else mask.reshape(6, 4, 16).all(-1)
    assert pattern == "unstructured" or np.array_equal(gone, mask.reshape(6, 4, 16).any(-1))
    for row, taken in zip(units, gone, strict=True) if by_row else [(units.ravel(), gone.ravel())]:
        assert taken.sum() == round(row.size * sparsity)
        if taken.any() and not taken.all():
            assert row[taken].max() < row[~taken].min()


def test_runs_that_do_not_divide_a_row_are_refused() -> None:
    with pytest.raises(ValueError, match="whole number"):
        mask_of(np.ones((2, 6), np.float32), "2:4", 0.5, block=16, by_row=True)


def slow_sparsegpt(weight: np.ndarray, hessian: np.ndarray, sparsity: float) -> np.ndarray:
    """Algorithm 1 in float64: a mask for each 128 columns, by the weights as they have become;
    H⁻¹ of the inputs still to come by eliminating each one from it."""
    damped = hessian.astype(np.float64)
    damped += 0.01 * np.diagonal(hessian).mean() * np.eye(len(hessian))
    inverse = np.linalg.inv(damped)
    pivots = np.linalg.cholesky(inverse).T.diagonal()
    w = weight.astype(np.float64)
    mask = np.zeros(w.shape, bool)
    for i in range(w.shape[1]):
        if i % 128 == 0:
            columns = slice(i, i + 128)
            scores = np.square(w[:, columns]) / np.square(pivots[columns])
            last = round(scores.size * sparsity) - 1
            mask[:, columns] = scores <= np.sort(scores.ravel())[last]
        error = np.where(mask[:, i], w[:, i], 0) / inverse[i, i]
        w[:, i:] -= np.outer(error, inverse[i, i:])
        w[mask[:, i], i] = 0
        inverse = inverse - np.outer(inverse[:, i], inverse[i]) / inverse[i, i]
    return w


@pytest.mark.parametrize(("width", "sparsity"), [(64, 0.5), (320, 0.5), (320, 0.75)])
def test_sparsegpt_equals_algorithm_1(width: int, sparsity: float) -> None:
    hessian = moments_of(inputs(rows=4 * width, width=width)).hessian
    weight = np.random.default_rng(2).normal(size=(16, width)).astype(np.float32)
    factor = factor_hessian(hessian, 0.01, act_order=False)
    fast = sparsegpt(weight, factor, "unstructured", sparsity)
    slow = slow_sparsegpt(weight, hessian, sparsity)
    assert np.array_equal(fast == 0, slow == 0)
    assert np.allclose(fast, slow, atol=2e-3)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), sparsity=st.sampled_from([0.3, 0.5, 0.8]))
def test_wanda_equals_its_formula(seed: int, sparsity: float) -> None:
    x = inputs(rows=96, width=48, seed=seed)
    weight = np.random.default_rng(seed).normal(size=(8, 48)).astype(np.float32)
    norms = np.sqrt(np.square(x.astype(np.float64)).sum(axis=0))  # ‖X_j‖₂
    expected = weight.copy()
    for row, scores in zip(expected, np.abs(weight) * norms, strict=True):
        row[np.argsort(scores)[: round(48 * sparsity)]] = 0
    assert np.array_equal(Wanda().prune(weight, moments_of(x), sparsity), expected)


@pytest.mark.parametrize("pattern", ["unstructured", "2:4", "4:8", "block"])
def test_better_methods_err_less(pattern: str) -> None:
    x = inputs()
    weight = np.random.default_rng(3).normal(size=(32, 64)).astype(np.float32)
    errors = []
    for pruner in (Magnitude(pattern=pattern), Wanda(pattern=pattern), SparseGpt(pattern=pattern)):  # type: ignore[arg-type]
        pruned = pruner.prune(weight, moments_of(x), 0.5)
        assert np.mean(pruned == 0) == pytest.approx(0.5, abs=0.01)
        errors.append(np.square(x @ (pruned - weight).T).sum())
    assert errors[2] < errors[1] < errors[0]


def test_wanda_follows_the_paper() -> None:
    weight = np.array([[3.0, -2.0, 1.0, 0.5]], np.float32)
    moments = Moments(np.diag([1.0, 1.0, 25.0, 100.0]).astype(np.float32), np.ones(4, np.float32))
    assert Wanda().prune(weight, moments, 0.5).tolist() == [[0, 0, 1.0, 0.5]]


@pytest.mark.parametrize("kind", [Magnitude, Wanda, SparseGpt])
def test_a_pruned_model_runs_and_keeps_its_storage_type(tmp_path: Path, kind: type) -> None:
    edition = tiny_llama.edition()
    edition.weights[UP] = DenseTensor(edition.weights[UP].data.astype(np.float16))  # type: ignore[index,union-attr]
    after = kind(sparsity=0.25).run(edition, tiny_llama.drive(tmp_path))
    tensor = after.weights[UP]
    assert isinstance(tensor, DenseTensor) and tensor.data.dtype == np.float16
    for name in edition.weights:
        zeros = float(np.mean(after.weights[name].dequantize() == 0))
        is_linear = "proj" in name
        assert zeros == pytest.approx(0.25 if is_linear else 0, abs=0.02), name
    assert np.isfinite(tiny_llama.logits(after)).all()


def test_what_was_pruned_stays_zero_when_quantized(tmp_path: Path) -> None:
    from slipstream.compress.passes.quantizers import Gptq

    pruned = Wanda(pattern="2:4").run(tiny_llama.edition(), tiny_llama.drive(tmp_path / "1"))
    for number, zero in enumerate(("symmetric", "zero_point")):
        again = Gptq(group=32, zero=zero, sweeps=number).run(  # type: ignore[arg-type]
            pruned, tiny_llama.drive(tmp_path / f"2{number}")
        )
        gone = pruned.weights[UP].dequantize() == 0
        assert gone.mean() >= 0.5 and np.all(again.weights[UP].dequantize()[gone] == 0)


def test_owl_keeps_more_where_outliers_are(tmp_path: Path) -> None:
    edition = tiny_llama.edition()
    for name in edition.weights:
        if name.startswith("model.layers.1.") and "proj" in name:
            edition.weights[name].data[:, 3] *= 40  # type: ignore[union-attr]
    ratios = owl_ratios(edition, tiny_llama.drive(tmp_path), 0.5)
    assert min(ratios, key=ratios.__getitem__) == "layers.1"
    assert np.mean(list(ratios.values())) == pytest.approx(0.5)
    after = Wanda(owl=True).run(edition, tiny_llama.drive(tmp_path / "whole"))
    zeros = [
        float(np.mean(after.weights[UP.replace("0", str(i), 1)].dequantize() == 0))
        for i in range(3)
    ]
    assert zeros[1] < 0.5 < zeros[0]


def test_ratios_keep_their_mean_and_stay_near_it() -> None:
    ratios = spread_ratios(np.array([0.1, 0.2, 0.4]), 0.5)
    assert ratios.mean() == pytest.approx(0.5) and ratios.max() - ratios.min() == pytest.approx(
        0.16
    )
    assert spread_ratios(np.ones(4), 0.3).tolist() == [0.3] * 4

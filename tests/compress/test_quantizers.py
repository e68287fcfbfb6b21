"""The quantizers against slow, obvious forms, and against each other."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from slipstream.compress.moments import Moments
from slipstream.compress.passes.awq import Awq, output_error, scale_of
from slipstream.compress.passes.codebook import ToCodebook
from slipstream.compress.passes.descent import descend
from slipstream.compress.passes.folding import folds_of
from slipstream.compress.passes.gptq import factor_hessian, gptq
from slipstream.compress.passes.grid import fit_grid
from slipstream.compress.passes.hqq import round_half_quadratic, shrink
from slipstream.compress.passes.imatrix import round_weighted
from slipstream.compress.passes.quantizers import Gptq, Hqq, Imatrix, Rtn
from slipstream.compress.passes.rtn import round_to_nearest
from slipstream.compress.passes.scales import refit_scales
from slipstream.compress.passes.signround import SignRound, learn_rounding
from slipstream.compress.stages import stages_of
from slipstream.compress.work import Visit, roles_of
from slipstream.errors import UnsupportedError
from slipstream.formats.tensor import Affine, AffineTensor, DenseTensor

sys.path.insert(0, str(Path(__file__).parent))
import tiny_llama

FORMATS = [
    Affine(bits, 32, zero)  # type: ignore[arg-type]
    for bits in (2, 3, 4, 8)
    for zero in ("symmetric", "zero_point")
]


def inputs(rows: int = 400, width: int = 96, seed: int = 1) -> np.ndarray:
    random = np.random.default_rng(seed)
    x = random.normal(size=(rows, width)) @ (random.normal(size=(width, width)) / 10 + 0.25)
    x[:, ::17] *= 6
    return x.astype(np.float32)


def weights(rows: int = 40, width: int = 96, seed: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).standard_t(4, size=(rows, width)).astype(np.float32)


def moments_of(x: np.ndarray) -> Moments:
    return Moments((x.T @ x / len(x)).astype(np.float32), np.abs(x).max(axis=0), len(x))


def lost(weight: np.ndarray, tensor: AffineTensor, x: np.ndarray) -> float:
    return float(np.square(x.astype(np.float64) @ (weight - tensor.dequantize()).T).mean())


@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_coordinate_descent_never_loses_and_ends_where_no_code_helps(format: Affine) -> None:
    x, weight = inputs(), weights()
    hessian = moments_of(x).hessian
    start = gptq(weight, factor_hessian(hessian), format).tensor
    end = descend(weight, start, hessian, sweeps=30)
    damped = hessian + 0.01 * np.diagonal(hessian).mean() * np.eye(96)

    def loss(values: np.ndarray) -> np.ndarray:
        d = (weight - values).astype(np.float64)
        return np.einsum("oi,ij,oj->o", d, damped, d)

    assert (loss(end.dequantize()) <= loss(start.dequantize()) * (1 + 1e-6)).all()
    # The slow form: no single code of a row, changed alone, makes the row better.
    values = end.dequantize().astype(np.float64)
    steps = np.repeat(end.scales.astype(np.float64), 32, axis=1)
    low, high = format.code_range
    zero = np.repeat(
        np.full(end.scales.shape, format.code_of_zero) if end.offsets is None else end.offsets,
        32, axis=1,
    ).astype(np.float64)  # fmt: skip
    ends = np.sort(np.stack([(low - zero) * steps, (high - zero) * steps]), axis=0)
    before = loss(values)
    for i in range(0, 96, 7):
        for step in (-1, 1):
            moved = values.copy()
            moved[:, i] += step * steps[:, i]
            inside = (moved[:, i] >= ends[0][:, i] - 1e-9) & (moved[:, i] <= ends[1][:, i] + 1e-9)
            assert (loss(moved) >= before * (1 - 1e-4))[inside].all()


def test_refitted_scales_are_the_least_squares_answer() -> None:
    x, weight = inputs(), weights(rows=4)
    hessian = moments_of(x).hessian
    start = round_to_nearest(weight, Affine(4, 32))
    end = refit_scales(weight, start, hessian)
    assert lost(weight, end, x) < lost(weight, start, x)
    ones = AffineTensor(start.format, start.codes, np.ones_like(start.scales))
    steps = ones.dequantize().reshape(4, 3, 32)
    for row in range(4):
        columns = np.stack([x[:, g * 32 : g * 32 + 32] @ steps[row, g] for g in range(3)], axis=1)
        wanted = np.linalg.lstsq(columns, x @ weight[row], rcond=None)[0]
        assert np.allclose(end.scales[row], wanted, rtol=0.02, atol=0.002)


def test_sweeps_lower_the_loss_and_keep_pruned_weights() -> None:
    x, weight = inputs(), weights()
    weight[:, ::3] = 0
    plain, swept = (
        Gptq(bits=3, group=32, sweeps=n).round(weight, moments_of(x), Affine(3, 32)) for n in (0, 3)
    )
    assert lost(weight, swept, x) < 0.95 * lost(weight, plain, x)
    assert (swept.dequantize()[:, ::3] == 0).all()


def slow_weighted(row: np.ndarray, importance: np.ndarray, format: Affine) -> float:
    """The least weighted error of one group over a fine grid of scales (symmetric)."""
    best = np.inf
    low, high = format.code_range
    for scale in np.linspace(-1.3, 1.3, 4001) * np.abs(row).max() / 4:
        if scale:
            q = np.clip(np.rint(row / scale) + 8, low, high) - 8
            best = min(best, float((importance * np.square(row - q * scale)).sum()))
    return best


def test_importance_rounding_comes_near_an_exhaustive_search() -> None:
    weight = weights(rows=6, width=32)
    power = np.square(inputs(width=32)).mean(axis=0)
    tensor = round_weighted(weight, power, Affine(4, 32))
    sigma2 = np.square(weight).mean(axis=1, keepdims=True)
    importance = power / power.mean() * np.sqrt(sigma2 + np.square(weight))
    ours = (importance * np.square(weight - tensor.dequantize())).sum(axis=1)
    slow = np.array(
        [slow_weighted(w, i, Affine(4, 32)) for w, i in zip(weight, importance, strict=True)]
    )
    assert (ours < 1.1 * slow).all() and ours.sum() < 1.04 * slow.sum()


@pytest.mark.parametrize("format", [*FORMATS, Affine(4, 32, "minimum")], ids=str)
def test_importance_rounding_beats_plain_rounding(format: Affine) -> None:
    weight = weights()
    power = moments_of(inputs()).power
    ours = round_weighted(weight, power, format).dequantize()
    plain = round_to_nearest(weight, format).dequantize()

    def error(values: np.ndarray) -> float:
        return float((power * np.square(weight - values)).sum())

    assert error(ours) < (1.02 if format.bits == 8 else 0.97) * error(plain)


def test_shrinking_is_the_authors_operator() -> None:
    x = np.array([-2.0, -0.01, 0.0, 0.5], np.float32)
    wanted = np.sign(x) * np.maximum(0, np.abs(x) - np.abs(np.where(x == 0, 1, x)) ** -0.3 / 10)
    wanted[2] = 0
    assert np.allclose(shrink(x, 10.0, 0.7), wanted)


@pytest.mark.parametrize("format", [*FORMATS[:6], Affine(4, 32, "minimum")], ids=str)
def test_hqq_is_nearer_in_the_mean_than_the_span(format: Affine) -> None:
    weight = weights(rows=64)
    plain = round_to_nearest(weight, format, "minmax").dequantize()
    ours = round_half_quadratic(weight, format).dequantize()
    assert np.abs(weight - ours).mean() < np.abs(weight - plain).mean()


def test_awq_scales_follow_the_paper() -> None:
    power = np.array([1.0, 4.0, 16.0], np.float32)
    assert np.allclose(scale_of(power, 0.0), 1)
    s = scale_of(power, 1.0)
    assert np.allclose(s, np.array([1, 2, 4]) / 2)
    x, weight = inputs(), weights()
    hessian = moments_of(x).hessian
    slow = round_to_nearest(weight * 2, Affine(4, 32), "minmax").dequantize() / 2 - weight
    found = output_error(weight, np.full(96, 2, np.float32), hessian, Affine(4, 32))
    assert found == pytest.approx(np.square(x @ slow.T).sum(axis=1).mean(), rel=1e-3)


def test_every_input_of_a_llama_can_be_folded() -> None:
    edition = tiny_llama.edition()
    stage = stages_of(edition.graph)[1]
    folds = folds_of(Visit(edition, stage, {}, roles_of(edition.graph)))
    assert [fold.group.key.split(".")[-2] for fold in folds] == [
        "q_proj", "o_proj", "gate_proj", "down_proj",
    ]  # fmt: skip
    assert folds[1].repeats == 2 and folds[0].norm is not None


@pytest.mark.parametrize("rounding", ["nearest", "gptq"])
def test_awq_beats_rounding_where_inputs_are_loud(tmp_path: Path, rounding: str) -> None:
    edition = tiny_llama.edition()
    gains = edition.weights["model.layers.0.input_layernorm.weight"].data  # type: ignore[union-attr]
    gains[::13] *= 12
    wanted = tiny_llama.logits(edition)
    errors = []
    for number, one in enumerate(
        (Rtn(bits=4, group=32), Awq(bits=4, group=32, rounding=rounding))  # type: ignore[arg-type]
    ):
        after = one.run(edition, tiny_llama.drive(tmp_path / str(number), count=8, length=64))
        errors.append(np.square(tiny_llama.logits(after) - wanted).mean())
        assert len(after.rounded) == 21
    assert errors[1] < errors[0]


def test_awq_leaves_rows_that_no_group_fits(tmp_path: Path) -> None:
    edition = tiny_llama.edition(num_hidden_layers=1, intermediate_size=100)
    after = Awq(group=32, steps=2).run(edition, tiny_llama.drive(tmp_path))
    down = "model.layers.0.mlp.down_proj.weight"
    assert isinstance(after.weights[down], DenseTensor)
    assert [note.weight for note in after.notes] == [down]
    assert len(after.rounded) == 6


@pytest.mark.parametrize("one", [Rtn(group=32), Gptq(group=32), Awq(group=32), Hqq(group=32), Imatrix(group=32),
                                 Gptq(group=32, bits=2, zero="zero_point", sweeps=1),
                                 ToCodebook(), ToCodebook(levels="mxfp4"), ToCodebook(levels="iq4_nl", weighted=True)], ids=str)  # fmt: skip
def test_every_quantizer_makes_what_it_outlines(tmp_path: Path, one) -> None:
    edition = tiny_llama.edition()
    after = one.run(edition, tiny_llama.drive(tmp_path))
    outline = one.outline(edition)
    assert after.rounded == outline.rounded
    for name in after.graph.weight_names():
        made, promised = after.weights[name], outline.weights[name]
        assert type(made) is type(promised) and made.shape == promised.shape
        if not isinstance(made, DenseTensor):
            assert made.format == promised.format and made.size_bytes == promised.size_bytes
        elif "norm" not in name:
            assert made is edition.weights[name]


@pytest.mark.parametrize("tied", [True, False])
def test_a_head_is_calibrated_where_it_is_read(tmp_path: Path, tied: bool) -> None:
    edition = tiny_llama.edition(tie_word_embeddings=tied)
    one = Gptq(select=("head",), bits=8, group=32)
    after = one.run(edition, tiny_llama.drive(tmp_path))
    name = "model.embed_tokens.weight" if tied else "lm_head.weight"
    assert after.rounded == {name} and not after.notes
    assert isinstance(after.weights[name], AffineTensor)


def test_grids_of_few_bits_are_searched_too() -> None:
    weight = weights()
    for format in FORMATS:
        spanned = fit_grid(weight, format, "minmax")
        searched = round_to_nearest(weight, format, "mse").dequantize()
        plain = round_to_nearest(weight, format, "minmax").dequantize()
        assert np.square(weight - searched).sum() <= np.square(weight - plain).sum()
        assert spanned.scale.shape == (40, 3)


@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_learned_rounding_loses_less_than_the_nearest_code_on_the_searched_span(
    format: Affine,
) -> None:
    x, weight = inputs(), weights()
    moments = moments_of(x)
    nearest = round_to_nearest(weight, format, "mse", moments.power)
    learned = learn_rounding(weight, moments.hessian, format, steps=60)
    gain = lost(weight, learned, x) / lost(weight, nearest, x)
    assert gain < (0.8 if format.bits < 8 else 1.0)


def test_learned_rounding_moves_by_the_gradient_of_the_output_error() -> None:
    # One row, no clipping: the sign of (D H) is that of the difference of losses, found by trying.
    x, weight = inputs(width=32), weights(rows=1, width=32)
    hessian = moments_of(x).hessian
    rounded = round_to_nearest(weight, Affine(4, 32), "mse").dequantize()
    d = (rounded - weight).astype(np.float64)
    pull = (d @ hessian)[0]
    for i in range(32):
        more, less = d.copy(), d.copy()
        more[0, i] += 1e-3
        less[0, i] -= 1e-3
        slope = (more @ hessian @ more.T - less @ hessian @ less.T).item()
        assert np.sign(slope) == np.sign(pull[i])


def test_learned_rounding_is_a_pass_and_refuses_float_minimums(tmp_path: Path) -> None:
    start = tiny_llama.edition()
    after = SignRound(bits=4, group=32, steps=10).run(start, tiny_llama.drive(tmp_path))
    assert all(
        isinstance(after.weights[name], AffineTensor)
        for name in after.graph.weight_names()
        if "_proj" in name
    )
    with pytest.raises(UnsupportedError, match="float minimums"):
        SignRound(bits=4, group=32, zero="minimum").run(start, tiny_llama.drive(tmp_path / "b"))


def test_a_tied_table_is_rounded_for_both_of_its_uses(tmp_path: Path) -> None:
    # The same table once tied, once as a head of its own: tied, it stays nearer to itself.
    apart: dict[bool, float] = {}
    for tied in (True, False):
        start = tiny_llama.edition(tie_word_embeddings=tied)
        table = start.weights["model.embed_tokens.weight"]
        name = "model.embed_tokens.weight" if tied else "lm_head.weight"
        weights = {**start.weights, name: table}
        start = replace(start, weights=weights)
        one = Gptq(select=("head",), bits=4, group=32)
        after = one.run(start, tiny_llama.drive(tmp_path / str(tied))).weights[name]
        apart[tied] = float(np.square(after.dequantize() - table.dequantize()).mean())
    assert apart[True] < apart[False]


def test_few_rows_are_damped_more_and_lose_less_on_other_inputs() -> None:
    few, weight = inputs(rows=60), weights()
    moments = moments_of(few)
    assert moments.damping == 96 / 60 and replace(moments, rows=10**6).damping == 0.01
    others = inputs(rows=2000, seed=1)[60:]
    format = Affine(4, 32)
    by_rows = Gptq().round(weight, moments, format)
    fixed = Gptq(damping=0.01).round(weight, moments, format)
    assert lost(weight, by_rows, others) < 0.9 * lost(weight, fixed, others)


def test_a_codebook_weighted_by_its_inputs_loses_less(tmp_path: Path) -> None:
    edition = tiny_llama.edition()
    edition.weights["model.layers.0.input_layernorm.weight"].data[::13] *= 12  # type: ignore[union-attr]
    wanted = tiny_llama.logits(edition)
    errors = []
    for weighted in (False, True):
        one = ToCodebook(levels="iq4_nl", group=32, weighted=weighted)
        drive = tiny_llama.drive(tmp_path / str(weighted), count=8, length=64)
        errors.append(np.square(tiny_llama.logits(one.run(edition, drive)) - wanted).mean())
    assert errors[1] < errors[0]

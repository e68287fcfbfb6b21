"""Recipes carried out on a tiny llama: who is calibrated, what changes, what it costs."""

import json
from pathlib import Path

import numpy as np
import pytest

from slipstream.backends.batch import single
from slipstream.backends.reference import compile_reference
from slipstream.compress import calibrate as calibrate_module
from slipstream.compress.calibrate import calibrate, calibration_passes
from slipstream.compress.recipe import Recipe, Roles, Rule, fitting_group, plan
from slipstream.compress.run import Memo, calibrated_groups, groups_of, overlay, quantize_weights
from slipstream.errors import NumericError
from slipstream.formats.tensor import Affine, AffineTensor, DenseTensor
from slipstream.graph.ops import Activations
from slipstream.models.blocks import Blueprint
from slipstream.models.registry import blueprint_of

LAYER = "model.layers.0"


def tiny(tied: bool = True) -> Blueprint:
    return blueprint_of(
        {
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64,
            "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 2, "vocab_size": 80, "max_position_embeddings": 128,
            "rms_norm_eps": 1e-5, "tie_word_embeddings": tied, "hidden_act": "silu",
        }
    )  # fmt: skip


def random_weights(blueprint: Blueprint) -> dict[str, DenseTensor]:
    random = np.random.default_rng(1)
    return {
        name: DenseTensor((random.normal(size=shape) * 0.2 + (len(shape) == 1)).astype(np.float32))
        for name, shape in blueprint.shapes.items()
    }


def text(count: int = 4, length: int = 64) -> np.ndarray:
    return np.random.default_rng(2).integers(0, 80, (count, length)).astype(np.int32)


INT4 = Recipe((Rule("linear", Affine(4, 32), "gptq"), Rule("head", Affine(8, None))))


def test_linears_that_share_an_input_are_one_group() -> None:
    blueprint = tiny()
    groups = groups_of(blueprint.graph, random_weights(blueprint))
    assert [len(group.weights) for group in groups] == [3, 1, 2, 1] * 2 + [1]
    assert groups[0].weights == tuple(f"{LAYER}.self_attn.{name}_proj.weight" for name in "qkv")
    assert groups[3].width == 96


@pytest.mark.parametrize("tied", [True, False])
def test_roles(tied: bool) -> None:
    roles = Roles.of(tiny(tied).graph).by_weight
    embedding = roles["model.embed_tokens.weight"]
    assert embedding == ({"embedding", "head"} if tied else {"embedding"})
    assert tied or roles["lm_head.weight"] == {"head"}
    assert roles[f"{LAYER}.mlp.down_proj.weight"] == {"linear"}
    assert f"{LAYER}.input_layernorm.weight" not in roles


def test_the_first_rule_that_names_a_weight_decides() -> None:
    blueprint = tiny()
    recipe = Recipe(
        (Rule("*.down_proj.weight", Affine(8, None)), Rule("linear", Affine(4, 32, "zero_point")))
    )
    steps = {s.weight: s.format for s in plan(recipe, blueprint.graph, random_weights(blueprint))}
    assert steps[f"{LAYER}.mlp.down_proj.weight"] == Affine(8, None)
    assert steps[f"{LAYER}.mlp.up_proj.weight"] == Affine(4, 32, "zero_point")
    assert steps["model.embed_tokens.weight"] is None


@pytest.mark.parametrize(
    ("wanted", "width", "activations", "fits"),
    [(64, 576, 32, 64), (128, 576, 32, 96), (128, 1536, 32, 128), (None, 576, 32, None), (48, 576, 32, 32),
     (1024, 576, 32, None), (32, 80, None, 16), (32, 24, None, None), (128, 576, None, 96)],
)  # fmt: skip
def test_a_group_falls_back_to_one_that_fits(wanted, width, activations, fits) -> None:
    assert fitting_group(wanted, width, Activations(8, activations)) == fits


def test_recipes_go_through_json() -> None:
    recipe = Recipe(
        (Rule("linear", Affine(4, 64, "zero_point"), "gptq"), Rule("head", None)),
        Activations(8, None),
        0.1,
    )
    assert Recipe.from_json(json.loads(json.dumps(recipe.to_json()))) == recipe
    assert recipe.label() == "int4 g64 asym gptq · a8 row"
    assert INT4.label() == "int4 g32 gptq, head int8 row · a8 g32"


def test_hessians_are_the_inputs_second_moments(tmp_path: Path) -> None:
    blueprint = tiny()
    program = compile_reference(blueprint.graph, random_weights(blueprint))
    groups = groups_of(blueprint.graph, random_weights(blueprint))
    hessians = calibrate(program, text(), groups, tmp_path)
    for group in groups:
        rows = [
            program.capture(single(chunk, all_logits=True), program.new_kv(1), (group.key,))[
                group.key
            ]
            for chunk in text()
        ]
        x = np.concatenate(rows).astype(np.float64)
        assert np.allclose(hessians.hessian(group.key), x.T @ x / len(x), rtol=1e-4, atol=1e-5)


def test_little_memory_means_more_passes_and_the_same_hessians(tmp_path: Path) -> None:
    blueprint = tiny()
    program = compile_reference(blueprint.graph, random_weights(blueprint))
    groups = groups_of(blueprint.graph, random_weights(blueprint))
    assert calibration_passes(groups, 64) == 1 and calibration_passes(groups, 64, 1) == len(groups)
    roomy = calibrate(program, text(), groups, tmp_path / "roomy")
    told: list[int] = []
    tight = calibrate(
        program, text(), groups, tmp_path / "tight", memory_bytes=80_000, on_tokens=told.append
    )
    assert sum(told) == text().size * calibration_passes(groups, 64, 80_000)
    for group in groups:
        assert np.array_equal(roomy.hessian(group.key), tight.hessian(group.key))


def test_calibration_resumes_and_notices_another_text(tmp_path: Path) -> None:
    blueprint = tiny()
    program = compile_reference(blueprint.graph, random_weights(blueprint))
    groups = groups_of(blueprint.graph, random_weights(blueprint))
    calibrate(program, text(), groups[:3], tmp_path)
    told: list[int] = []
    calibrate(program, text(), groups[:3], tmp_path, on_tokens=told.append)
    assert told == []
    other = calibrate(program, text()[:2], groups[:1], tmp_path)
    assert groups[0].key in other and groups[1].key not in other


def test_kept_factors_equal_fresh_ones(tmp_path: Path) -> None:
    blueprint = tiny()
    program = compile_reference(blueprint.graph, random_weights(blueprint))
    hessians = calibrate(
        program, text(), groups_of(blueprint.graph, random_weights(blueprint))[:1], tmp_path
    )
    key = f"{LAYER}.self_attn.q_proj.weight"
    fresh, kept = hessians.factor(key, 0.01, True), hessians.factor(key, 0.01, True)
    assert np.array_equal(fresh.upper, kept.upper) and np.array_equal(fresh.order, kept.order)
    with pytest.raises(KeyError):
        hessians.hessian("model.norm.weight")


def test_without_a_damping_few_rows_are_damped_more(tmp_path: Path) -> None:
    blueprint = tiny()
    weights = random_weights(blueprint)
    (group, *_) = groups = groups_of(blueprint.graph, weights)[:1]
    for rows in (text(1), text(8)):
        program = compile_reference(blueprint.graph, weights)
        hessians = calibrate(program, rows, groups, tmp_path)
        assert hessians.factor(group.key, None, True).damping == group.width / rows.size


def test_a_recipe_changes_what_it_names_and_nothing_else(tmp_path: Path) -> None:
    blueprint = tiny()
    weights = random_weights(blueprint)
    program = compile_reference(blueprint.graph, weights)
    groups = calibrated_groups(blueprint.graph, weights, [INT4])
    assert len(groups) == 8  # the head is rounded to nearest
    hessians = calibrate(program, text(), groups, tmp_path)
    told: list[str] = []
    changed = quantize_weights(blueprint.graph, weights, INT4, hessians, told.append)
    assert sorted(told) == sorted(changed) and len(changed) == 15
    for name, tensor in changed.items():
        assert isinstance(tensor, AffineTensor) and tensor.shape == weights[name].shape
        assert np.abs(tensor.dequantize() - weights[name].data).mean() < 0.05
    laid = overlay(weights, changed)
    assert set(laid) == set(weights) and laid["model.norm.weight"] is weights["model.norm.weight"]


def test_stacking_siblings_is_rounding_them_apart(tmp_path: Path) -> None:
    blueprint = tiny()
    weights = random_weights(blueprint)
    groups = groups_of(blueprint.graph, weights)[:1]
    hessians = calibrate(compile_reference(blueprint.graph, weights), text(), groups, tmp_path)
    both = Recipe((Rule("*0.self_attn.[qk]_proj.weight", Affine(4, 32), "gptq"),))
    stacked = quantize_weights(blueprint.graph, weights, both, hessians)
    for name in ("q", "k"):
        alone = Recipe((Rule(f"*0.self_attn.{name}_proj.weight", Affine(4, 32), "gptq"),))
        for weight, tensor in quantize_weights(blueprint.graph, weights, alone, hessians).items():
            assert np.mean(stacked[weight].dequantize() != tensor.dequantize()) < 0.02


def test_a_layer_that_fails_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blueprint = tiny()
    weights = random_weights(blueprint)
    weights[f"{LAYER}.mlp.down_proj.weight"].data[0, 0] = np.nan
    with pytest.raises(NumericError, match=r"0\.mlp\.down_proj"):
        quantize_weights(blueprint.graph, weights, Recipe((Rule("linear", Affine(8, 32)),)))
    hessians = calibrate_module.Hessians(tmp_path)
    hessians.store("somewhere.weight", np.full((16, 16), np.nan, np.float32))
    with pytest.raises(NumericError, match=r"somewhere\.weight"):
        hessians.factor("somewhere.weight", 0.01, True)


def test_recipes_that_share_a_step_round_it_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blueprint = tiny()
    weights = random_weights(blueprint)
    groups = calibrated_groups(blueprint.graph, weights, [INT4])
    hessians = calibrate(compile_reference(blueprint.graph, weights), text(), groups, tmp_path)
    finer = Recipe((Rule("*.down_proj.weight", Affine(8, None)), *INT4.rules))
    alone = quantize_weights(blueprint.graph, weights, finer, hessians)
    memo: Memo = {}
    first = quantize_weights(blueprint.graph, weights, INT4, hessians, memo=memo)
    shared = quantize_weights(blueprint.graph, weights, finer, hessians, memo=memo)
    for name, tensor in shared.items():
        assert (tensor is first[name]) == ("down_proj" not in name)
        assert np.array_equal(tensor.dequantize(), alone[name].dequantize())
    assert set(shared) == set(alone)

"""Really smaller models: cut by hand, scored against slow forms, run by both backends, reloaded."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from slipstream.backends.batch import single
from slipstream.backends.native import NativeOptions, compile_native, native_module
from slipstream.backends.reference import compile_reference
from slipstream.checkpoint.artifact import write_artifact
from slipstream.checkpoint.folder import FolderCheckpoint
from slipstream.compress.carry_out import carry_out
from slipstream.compress.chain import read_chain
from slipstream.compress.moments import Moments
from slipstream.compress.passes.drop_blocks import DropBlocks, influences, without
from slipstream.compress.passes.drop_inputs import (
    DropHeads,
    DropNeurons,
    choose,
    refitted,
    scores_of,
)
from slipstream.compress.passes.drop_width import DropWidth
from slipstream.compress.passes.shapes import reduced, whole_plan
from slipstream.errors import FileFormatError, MachineError, UnsupportedError
from slipstream.formats.tensor import DenseTensor
from slipstream.models.registry import blueprint_of
from slipstream.models.weights import Weights

sys.path.insert(0, str(Path(__file__).parent))
import tiny_llama


def size(edition) -> int:
    return sum(edition.weights[name].size_bytes for name in edition.graph.weight_names())


def both_backends_agree(edition) -> None:
    """Every non-uniform graph runs natively, and reads as the reference does."""
    try:
        native_module()
    except MachineError as error:
        pytest.skip(str(error))
    exact = NativeOptions(activations="f32", kv_dtype="float32", threads=1)
    program = compile_native(edition.graph, edition.weights, exact)
    ids = np.random.default_rng(3).integers(0, edition.graph.vocabulary, 20).astype(np.int32)
    found = program.step(single(ids, all_logits=True), program.new_kv(1))
    wanted = tiny_llama.logits(edition)
    assert np.abs(found - wanted).max() < 1e-4 * np.abs(wanted).max()


def comes_back_from_disk(edition, folder: Path) -> None:
    """Written as an artifact, read as any model is."""
    named = {name: edition.weights[name] for name in edition.graph.weight_names()}
    write_artifact(
        folder, config=edition.config, tensors=named, tokenizer=None, chat_template=None,
        manifest={}, activations={},
    )  # fmt: skip
    checkpoint = FolderCheckpoint(folder)
    blueprint = blueprint_of(checkpoint.config)
    weights = Weights(checkpoint, blueprint.shapes)
    assert blueprint.graph == edition.graph
    program = compile_reference(blueprint.graph, weights, dtype="float64")
    ids = np.random.default_rng(3).integers(0, edition.graph.vocabulary, 20).astype(np.int32)
    assert np.allclose(
        program.step(single(ids, all_logits=True), program.new_kv(1)), tiny_llama.logits(edition)
    )


def zero_out(edition, layer: int, heads: tuple[int, ...], neurons: tuple[int, ...]) -> None:
    at = f"model.layers.{layer}"
    for head in heads:  # 4 query heads of 16, two to each key/value head
        edition.weights[f"{at}.self_attn.o_proj.weight"].data[:, head * 32 : head * 32 + 32] = 0
    for neuron in neurons:
        edition.weights[f"{at}.mlp.down_proj.weight"].data[:, neuron] = 0


@pytest.mark.parametrize("scope", ["layer", "model"])
def test_taking_out_what_adds_nothing_changes_nothing(tmp_path: Path, scope: str) -> None:
    edition = tiny_llama.edition()
    gone = {0: range(0, 96, 3), 1: range(32), 2: range(64, 96)}
    for layer, neurons in gone.items():
        zero_out(edition, layer, (), tuple(neurons))
    pruner = DropNeurons(share=1 / 3, scope=scope, multiple=1, refit=False)  # type: ignore[arg-type]
    after = pruner.run(edition, tiny_llama.drive(tmp_path))
    assert after.config["intermediate_size"] == 64 and "slipstream" not in after.config
    assert np.allclose(tiny_llama.logits(after), tiny_llama.logits(edition), atol=1e-6)
    assert size(after) < size(edition)


def test_layers_may_differ_and_still_run_and_load(tmp_path: Path) -> None:
    edition = tiny_llama.edition()
    zero_out(edition, 1, (0,), tuple(range(32)))
    after = DropHeads(share=1 / 6, scope="model", refit=False).run(
        edition, tiny_llama.drive(tmp_path / "heads")
    )
    after = DropNeurons(share=1 / 9, scope="model", multiple=32, refit=False).run(
        after, tiny_llama.drive(tmp_path / "neurons")
    )
    layers = after.config["slipstream"]["layers"]
    assert layers[1] == {"heads": 2, "kv_heads": 1, "mlp_width": 64}
    assert layers[0] == layers[2] == {"heads": 4, "kv_heads": 2, "mlp_width": 96}
    assert np.allclose(tiny_llama.logits(after), tiny_llama.logits(edition), atol=1e-6)
    both_backends_agree(after)
    comes_back_from_disk(after, tmp_path / "artifact")


@pytest.mark.parametrize(
    "changes",
    [{}, {"model_type": "qwen3", "head_dim": 8}, {"model_type": "qwen2"}, {"model_type": "olmo2"},
     {"attention_bias": True, "mlp_bias": True}, {"tie_word_embeddings": False}],
)  # fmt: skip
def test_every_kind_of_cut_runs_on_every_kind_of_llama(tmp_path: Path, changes: dict) -> None:
    edition = tiny_llama.edition(**changes)
    chain = (
        DropBlocks(count=1), DropHeads(share=0.5), DropNeurons(share=0.3, scope="model"),
        DropWidth(share=0.5),
    )  # fmt: skip
    for number, one in enumerate(chain):
        outline = one.outline(edition)
        edition = one.run(edition, tiny_llama.drive(tmp_path / str(number)))
        assert len(outline.graph.nodes) == len(edition.graph.nodes)
    assert edition.graph.width == 32
    assert len(edition.graph.attentions) == 2 and edition.graph.attentions[0].kv_heads == 1
    assert np.isfinite(tiny_llama.logits(edition)).all()
    both_backends_agree(edition)


def test_refitting_beats_merely_cutting(tmp_path: Path) -> None:
    edition = tiny_llama.edition()
    wanted = tiny_llama.logits(edition)
    errors = []
    for refit in (False, True):
        pruner = DropNeurons(share=0.3, multiple=1, refit=refit)
        after = pruner.run(edition, tiny_llama.drive(tmp_path / str(refit), count=8, length=64))
        errors.append(np.square(tiny_llama.logits(after) - wanted).mean())
    assert errors[1] < 0.9 * errors[0]


def test_the_refit_is_the_least_squares_answer() -> None:
    random = np.random.default_rng(1)
    x = random.normal(size=(200, 12)) @ random.normal(size=(12, 12))
    weight = random.normal(size=(5, 12)).astype(np.float32)
    kept = np.array([0, 2, 3, 7, 8, 11])
    hessian = (x.T @ x / len(x)).astype(np.float32)
    found = refitted(weight, hessian, kept, damping=1e-9)
    wanted = np.linalg.lstsq(x[:, kept], x @ weight.T, rcond=None)[0].T
    assert np.allclose(found[:, kept], wanted, rtol=1e-2, atol=1e-3)
    assert np.count_nonzero(found.any(axis=0)) == len(kept)


@pytest.mark.parametrize("each", [1, 4])
def test_scores_are_the_power_that_is_lost(each: int) -> None:
    random = np.random.default_rng(2)
    x = random.normal(size=(50, 12)).astype(np.float32)
    weight = random.normal(size=(5, 12)).astype(np.float32)
    moments = Moments((x.T @ x / len(x)).astype(np.float32), np.abs(x).max(axis=0))
    wanted = [
        np.square(x[:, c : c + each] @ weight[:, c : c + each].T).sum(axis=1).mean()
        for c in range(0, 12, each)
    ]
    assert np.allclose(scores_of(weight, moments, each), wanted, rtol=1e-4)


def test_choosing_over_the_model_lets_layers_differ() -> None:
    scores = [np.array([1.0, 9, 9, 9]), np.array([4.0, 4, 4, 4])]
    assert [k.tolist() for k in choose(scores, 0.25, "layer", 1)] == [[1, 2, 3], [0, 1, 2]]
    assert [k.tolist() for k in choose(scores, 0.125, "model", 1)] == [[1, 2, 3], [0, 1, 2, 3]]
    assert [len(k) for k in choose(scores, 0.9, "layer", 2)] == [2, 2]


def test_influence_is_how_far_a_block_turns_the_stream(tmp_path: Path) -> None:
    edition = tiny_llama.edition()
    for part in ("self_attn.o_proj", "mlp.down_proj"):
        edition.weights[f"model.layers.1.{part}.weight"].data[:] *= 0.001  # type: ignore[union-attr]
    found = influences(edition, tiny_llama.drive(tmp_path))
    assert len(found) == 3 and found.argmin() == 1 and found[1] < 1e-4
    after = DropBlocks(count=1).run(edition, tiny_llama.drive(tmp_path / "run"))
    assert after.config["num_hidden_layers"] == 2
    wanted = tiny_llama.logits(edition)
    assert np.abs(tiny_llama.logits(after) - wanted).max() < 0.01 * np.abs(wanted).max()
    comes_back_from_disk(after, tmp_path / "artifact")


def test_lists_of_the_config_follow_the_layers() -> None:
    kinds = ["full_attention", "sliding_attention", "full_attention"]
    edition = tiny_llama.edition(model_type="gemma3_text", layer_types=kinds, head_dim=16,
                             query_pre_attn_scalar=16, sliding_window=8)  # fmt: skip
    after = without(edition, (0,))
    assert after.config["layer_types"] == kinds[1:]
    assert [attention.window for attention in after.graph.attentions] == [8, None]


def test_layers_that_differ_by_number_are_refused() -> None:
    edition = tiny_llama.edition(model_type="gemma2", head_dim=16, query_pre_attn_scalar=16,
                             sliding_window=8)  # fmt: skip
    with pytest.raises(UnsupportedError, match="number"):
        without(edition, (0,))


def test_what_cannot_be_dropped_is_refused() -> None:
    edition = tiny_llama.edition()
    for gone in ((0, 1, 2), (3,), (-1,)):
        with pytest.raises(UnsupportedError, match="cannot be dropped"):
            without(edition, gone)
    with pytest.raises(UnsupportedError, match="share"):
        DropNeurons(share=1.0).outline(edition)


def test_a_share_that_rounding_leaves_nothing_of_is_said(tmp_path: Path) -> None:
    edition = tiny_llama.edition()  # 96 neurons, 2 key/value heads, 64 channels
    for one in (DropNeurons(share=0.3), DropHeads(share=0.4), DropWidth(share=0.4)):
        with pytest.raises(UnsupportedError, match="takes out none of"):
            one.outline(edition)
        with pytest.raises(UnsupportedError, match="raise share, lower multiple|or lower multiple"):
            one.run(edition, tiny_llama.drive(tmp_path / "refused"))
    after = DropHeads(share=0.01, scope="model").run(edition, tiny_llama.drive(tmp_path / "noted"))
    assert after.graph == edition.graph
    assert [(note.weight, "none was taken out" in note.text) for note in after.notes] == [
        ("heads", True)
    ]


def test_what_a_later_pass_refuses_is_refused_before_any_work(tmp_path: Path) -> None:
    edition, drive = tiny_llama.edition(), tiny_llama.drive(tmp_path)
    chain = read_chain(
        "[[pass]]\nmethod='wanda'\n[[pass]]\nmethod='share_layers'\n[[pass]]\nmethod='drop_blocks'"
    )
    with pytest.raises(UnsupportedError, match="prune before share_layers"):
        carry_out(chain, edition, tiny_llama.compile_plain, drive.chunks, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_channels_that_are_always_zero_cost_nothing(tmp_path: Path) -> None:
    edition = tiny_llama.edition()
    gone = np.arange(1, 64, 2)
    edition.weights["model.embed_tokens.weight"].data[:, gone] = 0  # type: ignore[union-attr]
    for layer in range(3):
        for part in ("self_attn.o_proj", "mlp.down_proj"):
            edition.weights[f"model.layers.{layer}.{part}.weight"].data[gone] = 0  # type: ignore[union-attr]
    after = DropWidth(share=0.5).run(edition, tiny_llama.drive(tmp_path))
    assert after.graph.width == 32 and after.config["head_dim"] == 16
    wanted = tiny_llama.logits(edition)
    assert np.abs(tiny_llama.logits(after) - wanted).max() < 1e-3 * np.abs(wanted).max()
    comes_back_from_disk(after, tmp_path / "artifact")


def test_a_plan_that_keeps_everything_keeps_everything() -> None:
    edition = tiny_llama.edition()
    same = reduced(edition, whole_plan(edition))
    assert same.graph == edition.graph
    for name in edition.weights:
        assert np.array_equal(same.weights[name].dequantize(), edition.weights[name].dequantize())


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"layers": [{}]}, "list of 3"), ({"layers": [3, 3, 3]}, "object"),
        ({"layers": [{"heads": 3, "kv_heads": 2, "mlp_width": 9}] * 3}, "cannot share"),
        ({"layers": [{"heads": 4, "kv_heads": 2}] * 3}, "lacks mlp_width"),
        ({"shares": [0, 2, 2]}, "cannot share"), ({"shares": [0, 1]}, "list of 3"), ({"odd": 1}, "not known"),
        ({"low_rank": {"model.norm.weight": 3}}, "no matrix"),
        ({"low_rank": {"model.layers.0.mlp.up_proj.weight": 99}}, "integer of 1 to 64"),
    ],
)  # fmt: skip
def test_a_damaged_section_is_refused(section: dict, message: str) -> None:
    with pytest.raises(FileFormatError, match=message):
        blueprint_of({**tiny_llama.CONFIG, "slipstream": section})


def test_shared_layers_read_one_set_of_weights() -> None:
    config = {**tiny_llama.CONFIG, "slipstream": {"shares": [0, 0, 2]}}
    blueprint = blueprint_of(json.loads(json.dumps(config)))
    assert not any(name.startswith("model.layers.1.") for name in blueprint.shapes)
    edition = tiny_llama.edition()
    copied = {
        name: edition.weights[name.replace("layers.1.", "layers.0.")] for name in edition.weights
    }
    ids = np.arange(20, dtype=np.int32)
    shared = compile_reference(blueprint.graph, edition.weights)
    apart = compile_reference(edition.graph, copied)
    assert np.array_equal(
        shared.step(single(ids), shared.new_kv(1)), apart.step(single(ids), apart.new_kv(1))
    )


def test_factored_matrices_are_two_linears() -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    config = {**tiny_llama.CONFIG, "slipstream": {"low_rank": {name: 64}}}
    blueprint = blueprint_of(config)
    edition = tiny_llama.edition()
    u, s, v = np.linalg.svd(
        edition.weights[name].dequantize().astype(np.float64), full_matrices=False
    )
    weights = {n: t for n, t in edition.weights.items() if n != name}
    weights[name.replace(".weight", ".a.weight")] = DenseTensor((s[:, None] * v).astype(np.float32))
    weights[name.replace(".weight", ".b.weight")] = DenseTensor(u.astype(np.float32))
    assert {n: t.shape for n, t in weights.items()} == blueprint.shapes
    ids = np.arange(20, dtype=np.int32)
    factored = compile_reference(blueprint.graph, weights)
    plain = compile_reference(edition.graph, edition.weights)
    assert np.allclose(
        factored.step(single(ids), factored.new_kv(1)), plain.step(single(ids), plain.new_kv(1)),
        atol=1e-3,
    )  # fmt: skip

"""Inputs with one scale fixed beforehand: calibrated, computed alike, written and read again."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from slipstream.backends import reference_ops
from slipstream.backends.batch import single
from slipstream.backends.native import NativeOptions, compile_native, native_module
from slipstream.backends.reference import compile_reference
from slipstream.checkpoint.artifact import write_artifact
from slipstream.checkpoint.folder import FolderCheckpoint
from slipstream.checkpoint.safetensors import SafetensorsFile
from slipstream.checkpoint.safetensors_write import write_safetensors
from slipstream.compress.chain import read_chain
from slipstream.compress.passes.quantizers import Rtn
from slipstream.compress.passes.static_inputs import StaticInputs
from slipstream.compress.work import Edition
from slipstream.errors import FileFormatError, MachineError, UnsupportedError
from slipstream.graph.ops import Activations
from slipstream.graph.passes.activations import assign_activations

sys.path.insert(0, str(Path(__file__).parent))
import tiny_llama

UP, DOWN = "model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.down_proj.weight"
BOTH = ("linear", "embedding", "head")


def static(folder: Path, share: float = 1.0, bits: int = 8, **more) -> Edition:
    rounded = Rtn(select=BOTH, bits=bits, group=32).run(  # type: ignore[arg-type]
        tiny_llama.edition(), tiny_llama.drive(folder / "rtn")
    )
    return StaticInputs(share=share, **more).run(rounded, tiny_llama.drive(folder / "static"))


def test_a_scale_reaches_the_loudest_input_of_the_text(tmp_path: Path) -> None:
    found = static(tmp_path)
    drive = tiny_llama.drive(tmp_path)
    program = compile_reference(found.graph, found.weights)
    seen = [program.capture(single(c), program.new_kv(2), (UP, DOWN)) for c in drive.chunks]
    for name in (UP, DOWN):
        peak = max(float(np.abs(one[name]).max()) for one in seen)
        assert found.inputs[name] == Activations(8, None, pytest.approx(peak / 127, rel=1e-5))
    half = static(tmp_path / "half", share=0.5, select=("*.up_proj.weight",))
    assert half.inputs[UP].scale == pytest.approx(found.inputs[UP].scale / 2)
    assert DOWN not in half.inputs


def test_what_is_louder_is_clipped() -> None:
    x = np.array([[0.0, 0.26, -0.74, 300.0, -300.0, 63.5]], np.float32)
    given = reference_ops.round_activations(x, Activations(8, None, 0.5))
    assert given.tolist() == [[0.0, 0.5, -0.5, 63.5, -63.5, 63.5]]


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("share", [1.0, 0.3])
def test_native_says_what_the_reference_says(tmp_path: Path, share: float, bits: int) -> None:
    try:
        native_module()
    except MachineError as error:
        pytest.skip(str(error))
    edition = static(tmp_path, share, bits)
    ids = np.random.default_rng(3).integers(0, edition.graph.vocabulary, 20).astype(np.int32)
    graph = assign_activations(edition.graph, edition.weights, settings=edition.inputs)
    truth = compile_reference(graph, edition.weights, dtype="float64")
    wanted = np.asarray(truth.step(single(ids, all_logits=True), truth.new_kv(1)))
    options = NativeOptions(kv_dtype="float32", threads=1)
    program = compile_native(edition.graph, edition.weights, options, settings=edition.inputs)
    found = program.step(single(ids, all_logits=True), program.new_kv(1))
    plain = compile_native(edition.graph, edition.weights, options)
    dynamic = plain.step(single(ids, all_logits=True), plain.new_kv(1))
    error = np.abs(found - wanted).mean()
    assert error < 0.1 * np.abs(found - dynamic).mean()  # a code may fall on the other side
    kv = program.new_kv(1)
    first = program.step(single(ids[:7], all_logits=True), kv)
    assert first.tobytes() == found[:7].tobytes()  # whatever else is in the batch


def test_it_is_written_and_read_as_compressed_tensors_has_it(tmp_path: Path) -> None:
    edition = static(tmp_path)
    named = {name: edition.weights[name] for name in edition.graph.weight_names()}
    folder = tmp_path / "artifact"
    write_artifact(folder, config=edition.config, tensors=named, tokenizer=None,
                   chat_template=None, manifest={}, activations=edition.inputs)  # fmt: skip
    checkpoint = FolderCheckpoint(folder)
    assert checkpoint.activations == dict(edition.inputs)
    stored = checkpoint.config["quantization_config"]["config_groups"]
    asked = [one["input_activations"] for one in stored.values() if one["input_activations"]]
    assert asked and all(one["strategy"] == "tensor" and not one["dynamic"] for one in asked)
    path = folder / "model.safetensors"
    arrays = SafetensorsFile(path)
    copy = {name: np.array(arrays.array(name)) for name in arrays.names()}
    for wrong in (np.array([0.0], np.float32), np.array([np.nan], np.float32), None):
        damaged = {**copy, UP.replace("weight", "input_scale"): wrong}
        write_safetensors(path, {n: a for n, a in damaged.items() if a is not None}, {})
        with pytest.raises(FileFormatError, match="input_scale"):
            _ = FolderCheckpoint(folder).activations


def test_inputs_that_say_nothing_stay_dynamic_and_are_named(tmp_path: Path) -> None:
    edition = tiny_llama.edition()
    edition.weights["model.layers.0.post_attention_layernorm.weight"].data[:] = 0
    rounded = Rtn(bits=8, group=32).run(edition, tiny_llama.drive(tmp_path / "rtn"))
    after = StaticInputs().run(rounded, tiny_llama.drive(tmp_path / "static"))
    assert UP not in after.inputs and UP in {note.weight for note in after.notes}
    assert replace(after, inputs={}, notes=()) == replace(rounded, notes=())


def test_it_comes_last() -> None:
    read_chain(
        "[[pass]]\nmethod='rtn'\n[[pass]]\nmethod='static_inputs'\n[[pass]]\nmethod='kv_cache'"
    )
    with pytest.raises(UnsupportedError, match="static_inputs comes last: rtn"):
        read_chain("[[pass]]\nmethod='static_inputs'\n[[pass]]\nmethod='rtn'")
    with pytest.raises(UnsupportedError, match="share"):
        StaticInputs(share=0).outline(tiny_llama.edition())


@pytest.mark.slow
def test_transformers_rounds_inputs_as_we_do(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("compressed_tensors")
    edition = static(tmp_path)
    named = {name: edition.weights[name] for name in edition.graph.weight_names()}
    write_artifact(tmp_path / "out", config=edition.config, tensors=named, tokenizer=None,
                   chat_template=None, manifest={}, activations=edition.inputs)  # fmt: skip
    loaded = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", dtype=torch.float32
    )
    ids = np.random.default_rng(3).integers(0, 80, 20).astype(np.int32)
    with torch.no_grad():
        theirs = loaded(torch.from_numpy(ids[None].astype(np.int64))).logits[0].numpy()
    logits = []
    for settings in (edition.inputs, {}):
        graph = assign_activations(edition.graph, edition.weights, "auto", settings)
        program = compile_reference(graph, edition.weights, dtype="float64")
        logits.append(np.asarray(program.step(single(ids, all_logits=True), program.new_kv(1))))
    fixed, found = (np.abs(theirs - ours).mean() for ours in logits)
    assert fixed < 0.05 * found, (fixed, found)

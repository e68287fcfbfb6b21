"""Stage by stage: what each block is calibrated on, resuming after a kill, and layers that fail."""

import os
import signal
import subprocess
import sys
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from slipstream.backends.batch import single
from slipstream.backends.reference import compile_reference
from slipstream.compress.carry_out import carry_out, check_memory, memory_needed, run_folder
from slipstream.compress.chain import read_chain
from slipstream.compress.moments import Powers
from slipstream.compress.passes.awq import Awq
from slipstream.compress.passes.mixed import Mixed
from slipstream.compress.passes.pruners import Wanda
from slipstream.compress.passes.quantizers import Gptq, Imatrix, Rtn
from slipstream.compress.passes.shapes import CutWeights, whole_plan
from slipstream.compress.passes.signround import SignRound
from slipstream.compress.preview import calibration_operations, method_operations
from slipstream.compress.stages import stage_graph, stages_of, with_rows
from slipstream.compress.store import StoredTensors, overlay, release, save_tensors
from slipstream.compress.stream import stream
from slipstream.compress.work import Visit
from slipstream.errors import MachineError
from slipstream.formats.affine import quantize_affine
from slipstream.formats.tensor import Affine, AffineTensor, DenseTensor

sys.path.insert(0, str(Path(__file__).parent))
import tiny_llama

LAYER = "model.layers.0"
CHAIN = '[[pass]]\nmethod = "gptq"\nbits = 4\ngroup = 32\n'


def test_stages_run_apart_are_the_whole_model() -> None:
    edition = tiny_llama.edition()
    ids = np.arange(20, dtype=np.int32)
    whole = compile_reference(edition.graph, edition.weights)
    wanted = whole.step(single(ids, all_logits=True), whole.new_kv(1))
    rows = None
    for stage in stages_of(edition.graph):
        weights = {name: edition.weights[name] for name in stage.weights}
        weights = weights if rows is None else with_rows(weights, rows)
        program = compile_reference(stage_graph(stage, edition.graph, len(ids)), weights)
        rows = program.step(single(ids, all_logits=True), program.new_kv(1))
    assert [stage.name for stage in stages_of(edition.graph)][:2] == ["embed", "layers.0"]
    assert np.allclose(rows, wanted, atol=1e-5)


def test_a_block_is_calibrated_on_what_the_compressed_blocks_before_it_yield(
    tmp_path: Path,
) -> None:
    edition = tiny_llama.edition()
    drive = tiny_llama.drive(tmp_path)
    seen: dict[str, np.ndarray] = {}
    coarse = Rtn(bits=2, group=32)

    def visit(visit: Visit) -> None:
        seen.update({name: moments.hessian for name, moments in visit.moments.items()})
        coarse.visit(visit)

    after = stream(edition, drive, visit, inputs="now")
    program = compile_reference(after.graph, after.weights)
    key = "model.layers.2.mlp.gate_proj.weight"
    # Layer 2's own attention was still exact when its inputs were captured.
    fresh = {n: edition.weights[n] for n in edition.weights if n.startswith("model.layers.2.")}
    mixed = compile_reference(after.graph, {**dict(after.weights), **fresh})
    rows = [mixed.capture(single(chunk), mixed.new_kv(1), (key,))[key] for chunk in drive.chunks]
    x = np.concatenate(rows)
    assert np.allclose(seen[key], x.T @ x / len(x), rtol=1e-3, atol=1e-4)
    assert program.graph is after.graph


def test_an_interrupted_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    edition, chain = tiny_llama.edition(), read_chain(CHAIN)
    chunks = tiny_llama.drive(tmp_path).chunks
    whole = carry_out(chain, edition, tiny_llama.compile_plain, chunks, tmp_path / "whole")
    calls = 0

    def failing(graph, weights):
        nonlocal calls
        calls += 1
        if calls == 6:
            raise KeyboardInterrupt
        return tiny_llama.compile_plain(graph, weights)

    with pytest.raises(KeyboardInterrupt):
        carry_out(chain, edition, failing, chunks, tmp_path / "cut")
    left = sorted(path.name for path in (tmp_path / "cut" / "00-gptq").iterdir())
    assert any(name.startswith("stage-") for name in left)
    resumed = carry_out(chain, edition, tiny_llama.compile_plain, chunks, tmp_path / "cut")
    assert_equal_editions(whole, resumed)


def assert_equal_editions(one, other) -> None:
    for name in one.weights:
        a, b = one.weights[name], other.weights[name]
        assert type(a) is type(b)
        if isinstance(a, AffineTensor):
            assert np.array_equal(a.codes, b.codes) and np.array_equal(a.scales, b.scales)
        else:
            assert np.array_equal(a.dequantize(), b.dequantize())


SCRIPT = """
import sys, time
sys.path.insert(0, {folder!r})
import tiny_llama
from pathlib import Path
from slipstream.compress.carry_out import carry_out
from slipstream.compress.chain import read_chain
def slowly(graph, weights):
    time.sleep(0.15)
    return tiny_llama.compile_plain(graph, weights)
chunks = tiny_llama.drive(Path({run!r})).chunks
carry_out(read_chain({chain!r}), tiny_llama.edition(), slowly, chunks, Path({run!r}))
"""


def test_a_run_killed_with_signal_9_goes_on_and_ends_with_the_same_bits(tmp_path: Path) -> None:
    edition, chain = tiny_llama.edition(), read_chain(CHAIN)
    chunks = tiny_llama.drive(tmp_path).chunks
    whole = carry_out(chain, edition, tiny_llama.compile_plain, chunks, tmp_path / "whole")
    run = tmp_path / "killed"
    script = SCRIPT.format(folder=str(Path(__file__).parent), run=str(run), chain=CHAIN)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    worker = subprocess.Popen([sys.executable, "-c", script], env=environment)
    for _ in range(600):
        if (run / "00-gptq" / "stage-0001.safetensors").exists():
            break
        assert worker.poll() is None, "the worker ended by itself"
        time.sleep(0.02)
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    assert not (
        run / "00-gptq" / f"stage-{len(stages_of(edition.graph)) - 1:04}.safetensors"
    ).exists()
    resumed = carry_out(chain, edition, tiny_llama.compile_plain, chunks, run)
    assert_equal_editions(whole, resumed)


def test_what_decides_the_outcome_names_the_folder(tmp_path: Path) -> None:
    chunks = tiny_llama.drive(tmp_path).chunks
    chain = read_chain(CHAIN)
    folder = run_folder(tmp_path, "model", chain, chunks)
    assert folder == run_folder(tmp_path, "model", read_chain(CHAIN), chunks.copy())
    others = (
        run_folder(tmp_path, "another", chain, chunks),
        run_folder(tmp_path, "model", read_chain(CHAIN.replace("4", "3", 1)), chunks),
        run_folder(tmp_path, "model", chain, chunks[:1]),
    )
    assert len({folder, *others}) == 4


def test_failing_layers_are_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    edition = tiny_llama.edition()
    edition.weights[f"{LAYER}.mlp.down_proj.weight"].data[0, 0] = np.nan  # type: ignore[union-attr]
    drive = tiny_llama.drive(tmp_path)
    after = Gptq(bits=4, group=32).run(edition, drive)
    notes = {note.weight: note.text for note in after.notes}
    assert "left as stored" in notes[f"{LAYER}.mlp.down_proj.weight"]
    assert isinstance(after.weights[f"{LAYER}.mlp.down_proj.weight"], DenseTensor)
    # Everything behind it reads NaN: named, and rounded without calibration.
    behind = "model.layers.1.self_attn.q_proj.weight"
    assert "not finite" in notes[behind] or "nearest" in notes[behind]
    assert isinstance(after.weights[behind], AffineTensor)
    assert isinstance(after.weights[f"{LAYER}.self_attn.q_proj.weight"], AffineTensor)


def test_rows_that_no_group_fits_are_left_and_named(tmp_path: Path) -> None:
    edition = tiny_llama.edition(intermediate_size=90)
    after = Gptq(group=32).run(edition, tiny_llama.drive(tmp_path))
    noted = {note.weight for note in after.notes}
    assert noted == {f"model.layers.{i}.mlp.down_proj.weight" for i in range(3)}
    assert len(after.rounded) == 18


def test_a_singular_hessian_falls_back_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from slipstream.compress.passes import quantizers
    from slipstream.errors import NumericError

    def hopeless(*_: object) -> None:
        raise NumericError("it cannot be factored")

    monkeypatch.setattr(quantizers, "factor_hessian", hopeless)
    after = Gptq(bits=4, group=32).run(tiny_llama.edition(), tiny_llama.drive(tmp_path))
    assert after.notes and all("cannot be factored" in note.text for note in after.notes)
    plain = Rtn(bits=4, group=32).run(tiny_llama.edition(), tiny_llama.drive(tmp_path / "plain"))
    assert_equal_editions(after, plain)


def test_little_memory_captures_in_parts_with_the_same_result(tmp_path: Path) -> None:
    edition = tiny_llama.edition()
    roomy = Gptq(group=32).run(edition, tiny_llama.drive(tmp_path / "roomy"))
    tight = Gptq(group=32).run(edition, tiny_llama.drive(tmp_path / "tight", memory_bytes=1))
    assert_equal_editions(roomy, tight)


def test_too_little_memory_is_refused_before_any_work() -> None:
    edition = tiny_llama.edition()
    shapes = {name: edition.weights[name].shape for name in edition.weights}
    needed = memory_needed(edition.graph, shapes, 1000)
    assert needed < memory_needed(edition.graph, shapes, 2000)
    check_memory(edition.graph, edition.weights, 1000, needed)
    with pytest.raises(MachineError, match="--memory"):
        check_memory(edition.graph, edition.weights, 1000, needed - 1)


def test_stored_tensors_come_back_as_they_were(tmp_path: Path) -> None:
    weight = np.random.default_rng(1).normal(size=(8, 64)).astype(np.float32)
    tensors = {
        "dense": DenseTensor(weight.astype(np.float16)),
        "four": quantize_affine(weight, Affine(4, 32, "zero_point")),
        "eight": quantize_affine(weight, Affine(8, None)),
    }
    save_tensors(tmp_path / "a", {"dense": DenseTensor(weight)}, {"first": 1})
    save_tensors(tmp_path / "b", tensors, {"second": 2})
    stored = StoredTensors([tmp_path / "a", tmp_path / "b"])
    assert set(stored) == set(tensors) and stored.rounded == {"four", "eight"}
    assert stored.facts == [{"first": 1}, {"second": 2}]
    for name, tensor in tensors.items():
        assert np.array_equal(stored[name].dequantize(), tensor.dequantize())


@pytest.mark.parametrize("method", [Gptq, SignRound, Imatrix, Awq])
def test_what_is_held_stays_within_what_was_predicted(method: type, tmp_path: Path) -> None:
    shape = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 1}
    edition = tiny_llama.edition(**shape)
    drive = tiny_llama.drive(tmp_path, count=4, length=64)
    shapes = {name: edition.weights[name].shape for name in edition.graph.weight_names()}
    predicted = memory_needed(edition.graph, shapes, 4 * 64)
    steps = {"steps": 2} if method in (SignRound, Awq) else {}
    tracemalloc.start()
    try:
        method(bits=4, group=32, **steps).run(edition, drive)
        held = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert held < predicted < 4 * held


def test_a_preview_counts_what_methods_do_beyond_a_calibrated_rounding() -> None:
    edition = tiny_llama.edition()
    assert method_operations(Wanda(), edition) == 0
    searched = method_operations(Gptq(), edition)
    assert searched == method_operations(Rtn(), edition) > 0
    twice = method_operations(SignRound(steps=20), edition) - searched
    assert twice == 2 * (method_operations(SignRound(steps=10), edition) - searched) > 0
    assert method_operations(Mixed(size_mb=1), edition) > 0


def test_a_preview_charges_nobody_for_moments_that_are_not_gathered() -> None:
    edition = tiny_llama.edition()
    powers = calibration_operations(edition, 1024, whole=False)
    assert 0 < powers < calibration_operations(edition, 1024)
    assert calibration_operations(edition, 2048, whole=False) == 2 * powers


def test_mapped_pages_are_let_go_after_each_stage(tmp_path: Path) -> None:
    edition = tiny_llama.edition()

    class Counted(dict):
        released = 0

        def release(self) -> None:
            self.released += 1

    weights = Counted(edition.weights)
    cut = CutWeights(replace(edition, weights=weights), edition.graph, whole_plan(edition))
    over = replace(edition, weights=overlay(cut, {}))
    after = stream(over, tiny_llama.drive(tmp_path), lambda visit: None, inputs="none")
    assert weights.released == len(stages_of(edition.graph))
    assert set(after.weights) >= set(edition.graph.weight_names())


def test_what_was_let_go_is_read_again(tmp_path: Path) -> None:
    values = np.arange(4096, dtype=np.float32)
    save_tensors(tmp_path / "kept.safetensors", {"w": DenseTensor(values)}, {})
    stored = StoredTensors([tmp_path / "kept.safetensors"])
    before = stored["w"].dequantize()
    release(overlay(stored, {}))
    assert np.array_equal(before, values)
    assert np.array_equal(stored["w"].dequantize(), values)


def test_powers_are_the_diagonal_of_the_moments(tmp_path: Path) -> None:
    edition = tiny_llama.edition()
    found: dict[str, dict[str, np.ndarray]] = {"now": {}, "power": {}}
    for kind, seen in found.items():

        def look(visit: Visit, seen: dict[str, np.ndarray] = seen) -> None:
            seen.update({name: moments.power for name, moments in visit.moments.items()})

        stream(edition, tiny_llama.drive(tmp_path / kind), look, inputs=kind)  # type: ignore[arg-type]
    assert found["now"].keys() == found["power"].keys()
    for name, power in found["now"].items():
        assert np.allclose(power, found["power"][name], rtol=1e-4)


def test_scaled_powers_are_those_of_scaled_inputs() -> None:
    x = np.random.default_rng(2).standard_normal((40, 8)).astype(np.float32)
    scale = np.linspace(0.5, 2, 8, dtype=np.float32)
    power, peak = np.square(x).mean(axis=0), np.abs(x).max(axis=0)
    scaled = Powers(power, peak, 40).scaled(scale)
    assert np.allclose(scaled.power, np.square(x / scale).mean(axis=0), rtol=1e-4)
    assert np.allclose(scaled.peak, np.abs(x / scale).max(axis=0), rtol=1e-4)

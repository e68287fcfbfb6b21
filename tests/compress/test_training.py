"""Networks against the reference, their gradients against differences, and the loop's promises."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from slipstream.backends.batch import single  # noqa: E402
from slipstream.backends.reference import compile_reference  # noqa: E402
from slipstream.checkpoint.safetensors import SafetensorsFile  # noqa: E402
from slipstream.compress.corpus import Corpus, pack  # noqa: E402
from slipstream.compress.passes.distill import Distill  # noqa: E402
from slipstream.compress.passes.drop_blocks import DropBlocks  # noqa: E402
from slipstream.compress.training import distilling, loop  # noqa: E402
from slipstream.compress.training.loop import SNAPSHOT  # noqa: E402
from slipstream.compress.training.network import Network, Wanted  # noqa: E402
from slipstream.compress.training.parameters import Full, LowRank  # noqa: E402
from slipstream.compress.training.schedule import Schedule  # noqa: E402
from slipstream.compress.work import Drive, Edition, Silent  # noqa: E402
from slipstream.errors import MachineError, NumericError, UnsupportedError  # noqa: E402
from slipstream.formats.affine import quantize_affine  # noqa: E402
from slipstream.formats.tensor import Affine  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent))
import tiny_llama  # noqa: E402

QUICK = Distill(tokens=384, batch=64, rate=3e-3, measure=2)


def corpus(count: int = 8, length: int = 32) -> Corpus:
    random = np.random.default_rng(5)
    found = [random.integers(0, 80, 20 + 7 * i).astype(np.int32) for i in range(count)]
    return pack(found, length)


def pruned() -> Edition:
    edition = tiny_llama.edition()
    return DropBlocks(layers=(1,)).run(edition, tiny_llama.drive(Path()))


def drive(folder: Path, **more) -> Drive:
    given = {"corpus": corpus(), "original": tiny_llama.edition(), **more}
    return tiny_llama.drive(folder, **given)


class Heard(Silent):
    """Remembers every line."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def same_bits(one: Edition, other: Edition) -> bool:
    return all(
        np.array_equal(one.weights[name].dequantize(), other.weights[name].dequantize())
        for name in one.graph.weight_names()
    )


@pytest.mark.parametrize("keep", [True, False])
def test_a_network_says_what_the_reference_says_of_each_sequence(keep: bool) -> None:
    edition = tiny_llama.edition()
    names = edition.graph.weight_names()
    network = Network(edition.graph, Full(edition.weights, names, None).values, keep=keep)
    portion = corpus(length=64).portions[1]
    assert len(portion.starts) > 2
    trace = network.run(portion, Wanted(frozenset({0, 2}), frozenset({2})))
    program = compile_reference(edition.graph, edition.weights)
    wanted = []
    for start, end in pairwise(portion.starts):
        batch = single(portion.ids[start:end], all_logits=True)
        wanted.append(np.asarray(program.step(batch, program.new_kv(1)))[:-1])
    assert np.allclose(trace.logits.detach().numpy(), np.concatenate(wanted), atol=1e-4)
    assert set(trace.hidden) == {0, 2} and trace.hidden[0].shape == (len(portion.ids), 64)
    assert [value.shape[1] for value in trace.relations[2]] == [64, 32, 32]


def test_gradients_are_those_of_differences_and_checkpointing_changes_none() -> None:
    edition = tiny_llama.edition()
    names = edition.graph.weight_names()
    portion = corpus().portions[0]
    grads = []
    for keep in (True, False):
        full = Full(edition.weights, names, None)
        network = Network(edition.graph, full.values, keep=keep)
        (network.run(portion).logits.float() ** 2).mean().backward()
        grads.append({name: value.grad.clone() for name, value in full.trained().items()})
    assert all(torch.equal(grads[0][name], grads[1][name]) for name in names)
    random = np.random.default_rng(0)
    for name in (names[0], "model.layers.1.self_attn.k_proj.weight", "model.norm.weight"):
        turn = random.normal(size=edition.weights[name].shape)

        def mean_square(by: float, name=name, turn=turn) -> float:
            held = {n: edition.weights[n].dequantize().astype(np.float64) for n in names}
            held[name] = held[name] + by * turn
            program = compile_reference(edition.graph, held, dtype="float64")
            batch = replace(single(portion.ids, all_logits=True))
            batch = replace(
                batch,
                row_starts=portion.starts,
                lengths=np.zeros(len(portion.starts) - 1, np.int32),
                pages=np.arange(len(portion.starts) - 1, dtype=np.int32)[:, None],
                logit_rows=portion.scored,
            )
            logits = program.step(batch, program.new_kv(len(portion.starts)))
            return float((np.asarray(logits) ** 2).mean())

        slope = (mean_square(1e-5) - mean_square(-1e-5)) / 2e-5
        assert float((grads[0][name].numpy() * turn).sum()) == pytest.approx(slope, rel=1e-3)


def test_low_rank_changes_begin_at_nothing_and_are_merged() -> None:
    edition = tiny_llama.edition()
    name = "model.layers.0.mlp.up_proj.weight"
    low = LowRank(
        edition.weights, edition.graph.weight_names(), [name], rank=4, seed=0, device=None
    )
    before = edition.weights[name].dequantize()
    assert np.array_equal(low.tensors()[name].dequantize(), before)
    with torch.no_grad():
        low.up[name].add_(0.1)
    delta = low.tensors()[name].dequantize() - before
    assert set(low.tensors()) == {name} and np.linalg.matrix_rank(delta, tol=1e-3) == 1


def test_a_pruned_model_comes_nearer_to_its_original(tmp_path: Path) -> None:
    heard = Heard()
    options = Distill(tokens=8192, batch=256, rate=1e-3, held_out=4)
    after = options.run(pruned(), drive(tmp_path, watcher=heard, corpus=corpus(40)))
    words = heard.lines[0].split()
    before_kl, after_kl = float(words[2]), float(words[4])
    assert after_kl < 0.95 * before_kl
    assert set(after.graph.weight_names()) <= set(after.weights)


@pytest.mark.parametrize(
    "changes",
    [{"top_k": 8}, {"hidden": 1.0, "relations": 1.0, "checkpointing": True}, {"train": "lora", "rank": 4},
     {"divergence": "jensen_shannon", "labels": 0.5, "temperature": 2.0}, {"precision": "bfloat16"}],
    ids="+".join,
)  # fmt: skip
def test_every_kind_of_loss_trains(tmp_path: Path, changes) -> None:
    start = pruned()
    after = replace(QUICK, **changes).run(start, drive(tmp_path))
    assert not same_bits(start, after)
    changed = {
        n
        for n in start.weights
        if not np.array_equal(start.weights[n].dequantize(), after.weights[n].dequantize())
    }
    assert ("model.norm.weight" in changed) == (changes.get("train") != "lora")


class Clock:
    """Every look at it is a minute later, so that each update is saved."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1000
        return self.now


@pytest.mark.parametrize("stop", [1, 4])
@pytest.mark.parametrize("changes", [{}, {"top_k": 4, "train": "lora"}], ids=["whole", "sparse"])
def test_a_training_cut_short_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int, changes
) -> None:
    options = replace(QUICK, **changes)
    start = pruned()
    whole = options.run(start, drive(tmp_path / "whole"))

    class Stopping(Silent):
        def begin(self, label: str, total: float):
            done = 0.0

            def advance(units: float) -> None:
                nonlocal done
                done += units
                if label == "distilling" and done >= stop:
                    raise KeyboardInterrupt

            return advance

    monkeypatch.setattr(
        distilling,
        "where_of",
        lambda d, label: distilling.Where(d.folder, d.watcher, label, clock=Clock()),
    )
    with pytest.raises(KeyboardInterrupt):
        options.run(start, drive(tmp_path / "cut", watcher=Stopping()))
    assert (tmp_path / "cut" / SNAPSHOT).exists()
    resumed = options.run(start, drive(tmp_path / "cut"))
    assert same_bits(whole, resumed) and not (tmp_path / "cut" / SNAPSHOT).exists()
    again = options.run(start, drive(tmp_path / "cut"))  # what is finished is only read
    assert same_bits(again, whole)


SCRIPT = """
import sys
sys.path.insert(0, {folder!r})
from pathlib import Path
import test_training as t
from slipstream.compress.training import distilling
distilling.where_of = lambda d, label: distilling.Where(d.folder, d.watcher, label, clock=t.Clock())
t.replace(t.QUICK, tokens=200000).run(t.pruned(), t.drive(Path({run!r})))
"""


@pytest.mark.slow
def test_a_training_killed_with_signal_9_ends_with_the_same_bits(tmp_path: Path) -> None:
    """The killed run has far more updates before it than the worker can do: it is always cut."""
    options, start, run = replace(QUICK, tokens=200000, measure=0), pruned(), tmp_path / "killed"
    folder = str(Path(__file__).parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    script = SCRIPT.format(folder=folder, run=str(run)).replace(
        "tokens=200000", "tokens=200000, measure=0"
    )
    worker = subprocess.Popen([sys.executable, "-c", script], env=environment)
    while not (run / SNAPSHOT).exists():
        assert worker.poll() is None, "the worker ended by itself"
        time.sleep(0.02)
    worker.send_signal(signal.SIGKILL)
    worker.wait()

    done = json.loads(SafetensorsFile(run / SNAPSHOT).metadata["progress"])["updates"]
    assert 0 < done < 3125
    stopped = snapshot_after(options, start, tmp_path / "whole", done + 3)
    went_on = snapshot_after(options, start, run, done + 3)
    assert stopped == went_on


def snapshot_after(options: Distill, start: Edition, folder: Path, updates: int) -> bytes:
    """The snapshot of a run stopped after so many updates of all."""

    class Enough(Exception):
        pass

    saved: list[bytes] = []
    original = loop.save_snapshot

    def save(path, parameters, optimizer, progress) -> None:
        original(path, parameters, optimizer, progress)
        if progress.updates == updates:
            saved.append(path.read_bytes())
            raise Enough

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "save_snapshot", save)
        patch.setattr(
            distilling,
            "where_of",
            lambda d, label: loop.Where(d.folder, d.watcher, label, clock=Clock()),
        )
        with pytest.raises(Enough):
            options.run(start, drive(folder))
    return saved[0]


def test_the_log_is_tensorboards(tmp_path: Path) -> None:
    proto = pytest.importorskip("tensorboardX.proto.event_pb2")
    QUICK.run(pruned(), drive(tmp_path / "00-distill", log=tmp_path / "log"))
    (file,) = (tmp_path / "log" / "00-distill").iterdir()
    tags, data = {}, file.read_bytes()
    while data:  # length, its checksum, the event, its checksum
        size = int.from_bytes(data[:8], "little")
        event = proto.Event.FromString(data[12 : 12 + size])
        for value in event.summary.value:
            tags.setdefault(value.tag, []).append(event.step)
        data = data[16 + size :]
    assert tags["train/loss"] == list(range(1, 7)) and tags["held_out/kl"] == [0, 2, 4, 6]
    assert {"train/soft", "train/gradient", "rate"} <= set(tags)


def test_a_loss_that_explodes_is_named(tmp_path: Path) -> None:
    start = pruned()
    start.weights["model.norm.weight"].data[:] = np.inf  # type: ignore[union-attr]
    with pytest.raises(NumericError, match="not finite at update 1"):
        QUICK.run(start, drive(tmp_path))


def test_what_makes_no_sense_is_refused(tmp_path: Path) -> None:
    start = pruned()
    for changes in (
        {"soft": 0.0},
        {"temperature": 0.0},
        {"top_k": 2, "hidden": 1.0},
        {"rate": 0.0},
        {"tokens": 0},
    ):
        with pytest.raises(UnsupportedError):
            replace(QUICK, **changes).run(start, drive(tmp_path))
    with pytest.raises(MachineError, match="top_k"):
        QUICK.run(start, drive(tmp_path, memory_bytes=1000))
    with pytest.raises(UnsupportedError, match="layer 0 of 2"):
        replace(QUICK, hidden=1.0, layers=(7, 2)).run(start, drive(tmp_path))
    with pytest.raises(UnsupportedError, match="before you quantize"):
        QUICK.run(replace(start, rounded=frozenset({"x"})), drive(tmp_path))


def test_quantized_weights_of_a_checkpoint_are_trained_as_float(tmp_path: Path) -> None:
    start = pruned()
    name = "model.layers.0.mlp.up_proj.weight"
    stored = {
        **dict(start.weights),
        name: quantize_affine(start.weights[name].dequantize(), Affine(8, 32)),
    }
    after = QUICK.run(replace(start, weights=stored), drive(tmp_path))
    assert after.weights[name].dequantize().dtype == np.float32
    assert not after.rounded


@pytest.mark.parametrize("shape", ["cosine", "linear", "constant", "wsd"])
def test_schedules_warm_up_and_end_at_the_floor(shape) -> None:
    shares = [Schedule(100, 10, shape, 0.1).share(i) for i in range(100)]
    assert shares[:10] == sorted(shares[:10]) and 0 < shares[0] < 0.2 and max(shares) == 1.0
    assert all(a >= b for a, b in pairwise(shares[10:]))
    assert shares[-1] == 1.0 if shape == "constant" else shares[-1] < 0.16

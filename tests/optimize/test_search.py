"""The whole search on a tiny llama and the reference backend: budget, resumption, artifact."""

import json
from pathlib import Path

import numpy as np
import pytest

from slipstream.backends.reference import compile_reference
from slipstream.errors import FileFormatError
from slipstream.formats.affine import quantize_affine
from slipstream.formats.tensor import Affine, DenseTensor
from slipstream.graph.ops import Activations
from slipstream.graph.passes.activations import assign_activations
from slipstream.models.registry import blueprint_of
from slipstream.optimize import budget
from slipstream.optimize import search as search_module
from slipstream.optimize.budget import Pace, TokenPlan, plan_repeats, plan_tokens
from slipstream.optimize.journal import Journal
from slipstream.optimize.limits import parse_limits
from slipstream.optimize.programs import Subject, settings_of
from slipstream.optimize.search import Search, Settings
from slipstream.optimize.space import candidates


def compile_plainly(graph, weights, settings):
    return compile_reference(assign_activations(graph, weights, "auto", settings), weights)


def tiny_subject(*, quantized: bool = False) -> Subject:
    blueprint = blueprint_of(
        {
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64,
            "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 2, "vocab_size": 80, "max_position_embeddings": 256,
            "rms_norm_eps": 1e-5, "tie_word_embeddings": True, "hidden_act": "silu",
        }
    )  # fmt: skip
    random = np.random.default_rng(1)
    weights = {}
    for name, shape in blueprint.shapes.items():
        values = (random.normal(size=shape) * 0.25 + (len(shape) == 1)).astype(np.float32)
        affine = quantized and len(shape) == 2
        weights[name] = (
            quantize_affine(values, Affine(4, 32, "minimum")) if affine else DenseTensor(values)
        )
    return Subject(blueprint.graph, weights, compile_plainly, compile_plainly)


@pytest.fixture(autouse=True)
def _small_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "PROMPT_TOKENS", 16)
    monkeypatch.setattr(budget, "DECODE_TOKENS", 2)
    monkeypatch.setattr(budget, "REPEATS", (1, 1))


def settings(folder: Path, *limits: str, **more) -> Settings:
    return Settings(parse_limits(limits), folder, tokens=TokenPlan(256, 256), budget_s=1e6, **more)


class Heard:
    """A watcher that remembers."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.lines: list[str] = []

    def begin(self, label: str, total: float):
        self.stages.append(label)
        return lambda units: None

    def say(self, line: str) -> None:
        self.lines.append(line)


def some(subject: Subject, count: int):
    return candidates(subject.graph, subject.weights)[:count]


def test_every_candidate_is_measured_and_journaled(tmp_path: Path) -> None:
    subject, heard = tiny_subject(), Heard()
    chosen = some(subject, 5)
    study = Search(subject, None, settings(tmp_path, "kl<5", candidates=chosen), heard).run(
        "tiny", None, {}
    )
    assert [r.name for r in study.candidates] == [c.name for c in chosen]
    assert all(r.complete and r.size_bytes and r.failure is None for r in study.rows)
    assert study.baseline.kl.value == 0
    eight, four = study.candidates[0], study.candidates[2]
    assert eight.kl.value < four.kl.value and eight.size_bytes > four.size_bytes
    assert study.choice() is not None and study.front()
    assert len(heard.lines) == 6 and "calibrating" in heard.stages
    records = [json.loads(line) for line in (tmp_path / "journal.jsonl").read_text().splitlines()]
    assert {r["kind"] for r in records} == {"quality", "speed"}


def test_a_killed_run_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = tiny_subject()
    chosen = some(subject, 3)
    evaluate, calls = search_module.evaluate_program, []

    def dying(*arguments, **named):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return evaluate(*arguments, **named)

    monkeypatch.setattr(search_module, "evaluate_program", dying)
    first = Search(subject, None, settings(tmp_path, candidates=chosen))
    with pytest.raises(KeyboardInterrupt):
        first.run("tiny", None, {})
    study = Search(subject, None, settings(tmp_path, candidates=chosen)).run("tiny", None, {})
    assert len(calls) == 4  # two candidates, killed; then one more
    whole = Search(tiny_subject(), None, settings(tmp_path / "fresh", candidates=chosen)).run(
        "tiny", None, {}
    )
    assert [r.evaluation for r in study.rows] == [r.evaluation for r in whole.rows]


def test_a_second_run_measures_nothing_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = tiny_subject()
    chosen = some(subject, 2)
    first = Search(subject, None, settings(tmp_path, candidates=chosen)).run("tiny", None, {})
    monkeypatch.setattr(search_module, "evaluate_program", None)
    monkeypatch.setattr(search_module, "measure_speed", None)
    again = Search(subject, None, settings(tmp_path, "kl<0.5", candidates=chosen)).run(
        "tiny", None, {}
    )
    assert again.rows == first.rows


def test_equal_formats_share_one_timing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = tiny_subject()
    rtn_and_gptq = tuple(
        c
        for c in candidates(subject.graph, subject.weights)
        if c.name in ("int4 g32 gptq · a8 g32", "int4 g32 rtn · a8 g32")
    )
    measure, timed = search_module.measure_speed, []
    monkeypatch.setattr(
        search_module, "measure_speed", lambda p, **n: (timed.extend(p), measure(p, **n))[1]
    )
    study = Search(subject, None, settings(tmp_path, candidates=rtn_and_gptq)).run("tiny", None, {})
    assert len(timed) == 2  # baseline, int4 g32
    assert study.candidates[0].decode == study.candidates[1].decode


def test_little_memory_times_in_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = tiny_subject()
    measure, groups = search_module.measure_speed, []
    monkeypatch.setattr(
        search_module, "measure_speed", lambda p, **n: (groups.append(list(p)), measure(p, **n))[1]
    )
    tight = settings(tmp_path, candidates=some(subject, 4), keep_bytes=0)
    study = Search(subject, None, tight).run("tiny", None, {})
    assert len(groups) > 1 and all(group[0] == study.baseline.name for group in groups)
    assert all(r.complete for r in study.rows)


def test_a_layer_that_cannot_be_quantized_fails_its_candidate_only(tmp_path: Path) -> None:
    subject = tiny_subject()
    chosen = some(subject, 3)
    search = Search(subject, None, settings(tmp_path, candidates=chosen))
    search.texts(None)
    hessians = search.hessians()
    hessians.store("model.layers.1.mlp.gate_proj.weight", np.full((64, 64), np.nan, np.float32))
    study = search.run("tiny", None, {})
    failures = [r.failure for r in study.candidates]
    assert failures[0] is None and "layers.1.mlp.gate_proj" in (failures[1] or "")


def test_out_of_time_skips_and_says_so(tmp_path: Path) -> None:
    subject = tiny_subject()
    hurried = Settings(parse_limits(()), tmp_path, budget_s=1e-6, tokens=TokenPlan(256, 256))
    study = Search(subject, None, hurried).run("tiny", None, {})
    assert 2 <= len(study.candidates) < len(candidates(subject.graph, subject.weights))
    assert len(study.facts["not_measured"]) + len(study.candidates) == len(
        candidates(subject.graph, subject.weights)
    )


def test_lossless_copies_are_no_candidates() -> None:
    subject = tiny_subject(quantized=True)
    stored = {name: t for name, t in subject.weights.items() if not isinstance(t, DenseTensor)}
    assert stored
    names = [c.name for c in candidates(subject.graph, subject.weights)]
    assert len(names) == len(set(names)) >= 10
    assert not any("min" in name for name in names)


def test_activation_groups_fit_the_weights() -> None:
    subject = tiny_subject(quantized=True)
    by_name = settings_of(subject.graph, subject.weights, Activations(8, 32))
    assert set(by_name.values()) == {Activations(8, 32)}
    odd = settings_of(subject.graph, subject.weights, Activations(8, 48))
    assert set(odd.values()) == {Activations(8, None)}
    dense = settings_of(tiny_subject().graph, tiny_subject().weights, Activations(8, 32))
    assert set(dense.values()) == {Activations()}


def test_a_journal_drops_a_line_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    journal.add("quality", "a", {"x": 1})
    with path.open("a") as file:
        file.write('{"kind": "quality", "name": "b", "x"')
    again = Journal(path)
    assert again.get("quality", "a") == {"x": 1} and again.get("quality", "b") is None
    again.add("quality", "b", {"x": 2})
    assert Journal(path).get("quality", "b") == {"x": 2}


def test_a_journal_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "journal.jsonl").write_text("hello\n")
    with pytest.raises(FileFormatError, match="line 1"):
        Journal(tmp_path / "journal.jsonl")


def test_token_plans_follow_the_pace() -> None:
    slow = plan_tokens(240, Pace(0.01, 0.02), Pace(0.005, 0.02), 12)
    fast = plan_tokens(240, Pace(0.001, 0.02), Pace(0.0005, 0.02), 12)
    assert slow.evaluation == 2048 and fast.evaluation >= 2 * slow.evaluation
    assert fast.evaluation % 512 == fast.calibration % 512 == 0
    assert plan_repeats(1000, 10, Pace(0.001, 0.02)) == budget.REPEATS[1]


def test_a_quantized_file_is_shown_as_it_is_served(tmp_path: Path) -> None:
    subject = tiny_subject(quantized=True)
    study = Search(subject, None, settings(tmp_path, candidates=some(subject, 1))).run(
        "tiny", None, {}
    )
    assert study.stored is not None and study.stored.role == "stored"
    assert study.stored.size_bytes == study.baseline.size_bytes
    assert study.rows[:2] == (study.baseline, study.stored)


def test_what_was_skipped_is_not_begun_by_a_second_run(tmp_path: Path) -> None:
    subject = tiny_subject()
    hurried = Settings(parse_limits(()), tmp_path, budget_s=1e-6, tokens=TokenPlan(256, 256))
    first = Search(subject, None, hurried).run("tiny", None, {})
    again = Search(subject, None, settings(tmp_path)).run("tiny", None, {})
    assert again.rows == first.rows and again.facts["not_measured"] == first.facts["not_measured"]

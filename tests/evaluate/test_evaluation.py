"""Evaluation of whole programs, on fakes with known logits and a tiny real graph."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipstream.backends.batch import Batch
from slipstream.backends.reference import compile_reference
from slipstream.errors import NumericError, RequestError
from slipstream.evaluate import perplexity as perplexity_module
from slipstream.evaluate.divergence import LiveBaseline
from slipstream.evaluate.evaluation import Evaluation, evaluate_program
from slipstream.evaluate.interval import Measured
from slipstream.evaluate.perplexity import chunks_of
from slipstream.evaluate.texts import sample_chunks, sample_texts
from slipstream.evaluate.verdict import Limit, judge
from slipstream.formats.tensor import DenseTensor
from slipstream.models.registry import blueprint_of

VOCABULARY = 60


def tiny_program(noise: float = 0.0):
    """A llama of 2 layers with random weights, disturbed by `noise`."""
    blueprint = blueprint_of(
        {
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 32,
            "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 2, "vocab_size": VOCABULARY, "max_position_embeddings": 256,
            "rms_norm_eps": 1e-5, "tie_word_embeddings": True, "hidden_act": "silu",
        }
    )  # fmt: skip
    random, disturb = np.random.default_rng(11), np.random.default_rng(12)
    weights = {}
    for name, shape in blueprint.shapes.items():
        values = random.normal(size=shape) * 0.3 + (1 if len(shape) == 1 else 0)
        values += disturb.normal(size=shape) * noise * (len(shape) > 1)
        weights[name] = DenseTensor(values.astype(np.float32))
    return compile_reference(blueprint.graph, weights)


def chunks(count: int = 3, length: int = 100) -> np.ndarray:
    return np.random.default_rng(13).integers(0, VOCABULARY, (count, length)).astype(np.int32)


def test_perplexity_is_that_of_the_plain_softmax() -> None:
    program, text = tiny_program(), chunks(1)
    kv = program.new_kv(2)
    batch = Batch(
        text[0], np.array([0, 100], np.int32), np.zeros(1, np.int32),
        np.arange(2, dtype=np.int32)[None], np.arange(100, dtype=np.int32),
    )  # fmt: skip
    logits = program.step(batch, kv).astype(np.float64)
    logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    expected = np.exp(-np.mean([logs[i, text[0][i + 1]] for i in range(99)]))
    assert evaluate_program(program, text).perplexity.value == pytest.approx(expected, rel=1e-5)


def test_a_program_is_at_no_distance_from_itself() -> None:
    program, text = tiny_program(), chunks()
    found = evaluate_program(program, text, LiveBaseline(tiny_program(), text)).distance
    assert found is not None
    assert found.kl == Measured(0, 0, 0) and found.kl_max == 0
    assert found.top1 == Measured(1, 1, 1) and found.perplexity_ratio == Measured(1, 1, 1)


def test_more_disturbance_is_more_distance() -> None:
    baseline = LiveBaseline(tiny_program(), chunks())
    found = [
        evaluate_program(tiny_program(n), chunks(), baseline).distance for n in (0.01, 0.05, 0.2)
    ]
    kls = [d.kl.value for d in found if d]
    assert kls == sorted(kls) and kls[0] > 0
    assert all(d.kl.low <= d.kl.value <= d.kl.high <= d.kl_max for d in found if d)


def test_pieces_do_not_change_the_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = evaluate_program(tiny_program(0.1), chunks(), LiveBaseline(tiny_program(), chunks()))
    monkeypatch.setattr(perplexity_module, "PIECE_BYTES", 4 * VOCABULARY * 17)
    cut = evaluate_program(tiny_program(0.1), chunks(), LiveBaseline(tiny_program(), chunks()))
    assert cut.text_sha256 == whole.text_sha256
    assert cut.distance and whole.distance
    assert cut.distance.kl.value == pytest.approx(whole.distance.kl.value, rel=1e-4)


def test_positions_are_reported_as_they_are_scored() -> None:
    told: list[int] = []
    found = evaluate_program(tiny_program(), chunks(), on_positions=told.append)
    assert sum(told) == found.positions == 3 * 99
    assert found.distance is None and "kl" not in found.measurements()


def test_json_and_back() -> None:
    found = evaluate_program(tiny_program(0.1), chunks(), LiveBaseline(tiny_program(), chunks()))
    assert Evaluation.from_json(json.loads(json.dumps(found.to_json()))) == found
    alone = evaluate_program(tiny_program(), chunks())
    assert Evaluation.from_json(json.loads(json.dumps(alone.to_json()))) == alone


def test_logits_that_are_not_finite_are_an_error() -> None:
    with pytest.raises(NumericError, match="not finite"):
        evaluate_program(tiny_program(float("nan")), chunks())


def test_a_baseline_over_another_text_is_refused() -> None:
    with pytest.raises(ValueError, match="other chunks"):
        evaluate_program(tiny_program(), chunks(2), LiveBaseline(tiny_program(), chunks(3)))


def test_chunks_drop_the_rest_and_open_with_bos() -> None:
    ids = np.arange(1, 31, dtype=np.int32)
    assert chunks_of(ids, 8).tolist() == ids[:24].reshape(3, 8).tolist()
    assert chunks_of(ids, 8, bos_id=0)[:, 0].tolist() == [0, 0, 0]
    assert chunks_of(ids, 100).shape == (1, 30)
    with pytest.raises(RequestError, match="at least two"):
        chunks_of(ids[:1])


def test_sampled_text_depends_on_seeds_alone() -> None:
    together = sample_chunks(tiny_program(), 1, 4, 20)
    apart = sample_chunks(tiny_program(), 1, 2, 20)
    assert np.array_equal(together[:2], apart)
    assert len({tuple(row) for row in together.tolist()}) == 4
    assert together[:, 0].tolist() == [1] * 4


def test_sampled_evaluation_and_calibration_are_disjoint() -> None:
    texts = sample_texts(tiny_program(), 1, 60, 40, length=20)
    assert texts.evaluation.shape == (3, 20) and texts.calibration.shape == (2, 20)
    rows = {tuple(row) for row in np.concatenate([texts.evaluation, texts.calibration]).tolist()}
    assert len(rows) == 5


@given(value=st.floats(0, 1), half=st.floats(0, 0.5), bound=st.floats(0.001, 1))
def test_a_limit_holds_only_with_its_whole_interval(
    value: float, half: float, bound: float
) -> None:
    measured = Measured(value, value - half, value + half)
    assert Limit("kl", "<", bound, "").met_by(measured) == (value + half < bound)
    assert Limit("top1", ">", bound, "").met_by(measured) == (value - half > bound)


def test_the_verdict_says_how_near_each_miss_is() -> None:
    limits = [Limit("kl", "<", 0.02, "kl<0.02"), Limit("top1", ">", 0.9, "top1>0.9")]
    verdict = judge(limits, {"kl": Measured(0.03, 0.02, 0.04), "top1": Measured(0.95, 0.94, 0.96)})
    assert not verdict.met
    assert [finding.met for finding in verdict.findings] == [False, True]
    assert verdict.miss == pytest.approx(np.log(2))
    unknown = judge(limits[:1], {"kl": Measured(0.01, -np.inf, np.inf)})
    assert not unknown.met and unknown.miss == np.inf

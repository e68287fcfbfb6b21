"""Beam search: transformers' beams, over pages that beams share; and what it refuses."""

import asyncio
import json
from itertools import product

import numpy as np
import pytest
from fakes import ByteTokenizer, FakeProgram, fake_engine

from slipstream.backends.reference import compile_reference
from slipstream.engine.beam import search_on
from slipstream.engine.beam_rivals import Rival
from slipstream.engine.beam_search import BeamSearch
from slipstream.engine.engine import Engine
from slipstream.engine.grammar import Grammar
from slipstream.engine.options import Settings
from slipstream.engine.prefix import WORTH_COPYING
from slipstream.engine.request import SamplingParams
from slipstream.engine.scheduler import Limits
from slipstream.engine.service import Service
from slipstream.errors import RequestError
from slipstream.formats.tensor import DenseTensor
from slipstream.models.registry import blueprint_of

END = 2


@pytest.fixture(scope="module")
def truth():
    """A tiny Llama of transformers whose likeliest tokens are close to each other."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=61, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256,
        pad_token_id=0, bos_token_id=1, eos_token_id=END,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).float().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.25)
    return model


@pytest.fixture
def engine(truth):
    config = {**truth.config.to_dict(), "architectures": ["LlamaForCausalLM"]}
    blueprint = blueprint_of(config)
    state = truth.state_dict()
    weights = {name: DenseTensor(state[name].numpy()) for name in blueprint.shapes}
    settings = Settings("reference", Limits(8, 64), 256, (64,), "float32", "auto", None)
    tokenizer = ByteTokenizer(eos_ids=frozenset({END}), vocabulary_size=61)
    return Engine(compile_reference(blueprint.graph, weights), tokenizer, settings)


@pytest.mark.parametrize(("width", "length"), [(2, 12), (4, 20), (5, 7)])
def test_beams_are_those_of_transformers(truth, engine, width, length):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(width)
    for _ in range(4):
        prompt = rng.integers(3, 61, rng.integers(1, 70)).tolist()
        with torch.no_grad():
            expected = truth.generate(
                torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)),
                num_beams=width, num_return_sequences=2, max_new_tokens=length, do_sample=False,
                length_penalty=1.0, early_stopping=False, output_scores=True,
                return_dict_in_generate=True,
            )  # fmt: skip
        params = SamplingParams(beam_width=width, n=2, max_tokens=length, logprobs=True)
        got = engine.generate([prompt], params)
        for completion, ids, score in zip(
            got, expected.sequences, expected.sequences_scores, strict=True
        ):
            own = ids[len(prompt) :].tolist()
            own = own[: own.index(END) + 1] if END in own else own
            assert list(completion.ids) == own
            mean = sum(entry.logprob for entry in completion.logprobs) / len(own)
            assert mean == pytest.approx(float(score), abs=1e-4)
    engine.check()
    assert engine.idle and engine.snapshot().pages_used == 0


def test_beams_compute_only_what_is_new():
    """The rest is found: pages of its parent, the last one copied where it is worth it."""
    program = FakeProgram()
    engine = fake_engine(program)
    engine.generate([list(range(16)) * 7], SamplingParams(beam_width=3, max_tokens=30))
    assert program.rows[0] + program.rows[1] + program.rows[2] + program.rows[3] == 112
    assert max(program.rows[4:]) <= 3 * WORTH_COPYING and program.rows[4:].count(3) > 20


def rivals(*pairs):
    return [Rival(token, score, (), score) for token, score in pairs]


def test_beams_that_end_make_room_for_others():
    state = BeamSearch(2, max_tokens=9, stop_ids=frozenset({END}))
    state.grow([rivals((END, -0.1), (5, -1.0), (6, -2.0), (7, -9.0))])
    assert [beam.ids for beam in state.finished] == [(END,)]
    assert [beam.ids for beam in state.running] == [(5,), (6,)] and not state.done
    state.grow([rivals((END, -0.1), (8, -3.0)), rivals((END, -0.1), (8, -3.0))])
    assert [beam.ids for beam in state.finished] == [(END,), (5, END)]
    assert state.done  # -4 over two tokens is behind the worst finished


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"min_tokens": 6}, {"min_new_tokens": 6}),
        ({"bad_words": ("\x05", "\x08\x09")}, {"bad_words_ids": [[5], [8, 9], [32, 5], [32, 8, 9]]}),
        ({"allowed_ids": frozenset({END, *range(20, 40)})},
         {"prefix_allowed_tokens_fn": lambda batch, ids: [END, *range(20, 40)]}),
    ],
)  # fmt: skip
def test_constraints_forbid_as_in_transformers(truth, engine, ours, theirs):
    """Scores are the model's own log-probabilities: what is forbidden shifts nothing else."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(5)
    for _ in range(3):
        prompt = rng.integers(3, 61, rng.integers(1, 70)).tolist()
        with torch.no_grad():
            expected = truth.generate(
                torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), num_beams=4,
                num_return_sequences=4, max_new_tokens=12, do_sample=False, length_penalty=1.0,
                early_stopping=False, output_scores=True, return_dict_in_generate=True, **theirs,
            )  # fmt: skip
        got = engine.generate([prompt], SamplingParams(beam_width=4, n=4, max_tokens=12, **ours))
        for completion, ids in zip(got, expected.sequences, strict=True):
            own = ids[len(prompt) :].tolist()
            assert list(completion.ids) == (own[: own.index(END) + 1] if END in own else own)


def test_penalties_and_biases_count_in_each_beams_own_answer():
    """Wide enough, the search is exhaustive: the truth is every answer, scored token by token."""
    program, prompt, length = FakeProgram(vocabulary=5), [1, 3, 3], 3
    params = SamplingParams(
        beam_width=32, n=6, max_tokens=length, repetition_penalty=1.3, presence_penalty=0.7,
        frequency_penalty=0.9, logit_bias={2: 1.5}, logprobs=True, top_logprobs=2, seed=1,
    )  # fmt: skip
    scores, own = {}, {}
    for answer in product(range(5), repeat=length):
        scores[answer], own[answer] = 0.0, []
        for place, token in enumerate(answer):
            ids = [*prompt, *answer[:place]]
            logits = program.hashed(ids).astype(np.float64)
            own[answer].append(float(logits[token] - np.log(np.exp(logits).sum())))
            logits[2] += 1.5
            for seen in set(ids):
                logits[seen] = logits[seen] / 1.3 if logits[seen] > 0 else logits[seen] * 1.3
            for said in answer[:place]:
                logits[said] -= 0.9
            for said in set(answer[:place]):
                logits[said] -= 0.7
            scores[answer] += logits[token] - np.log(np.exp(logits).sum())
    best = sorted(scores, key=lambda answer: -scores[answer])[: params.n]
    got = fake_engine(program).generate([prompt], params)
    assert [completion.ids for completion in got] == best
    for completion in got:
        reported = [entry.logprob for entry in completion.logprobs]
        assert reported == pytest.approx(own[completion.ids], abs=1e-4), "the model's own"
        assert all(len(entry.top) == 2 for entry in completion.logprobs)


def test_a_stop_string_ends_a_beam_across_tokens():
    """With two letters and these stops, an answer is one letter, then perhaps the other, once."""
    params = SamplingParams(
        beam_width=4, n=4, max_tokens=6, allowed_ids=frozenset({97, 98}), stop=("ab", "ba")
    )
    seen = set()
    for prompt in range(6):
        for completion in fake_engine(FakeProgram(257)).generate([[prompt]], params):
            said, last = bytes(completion.ids).decode(), completion.stopped_by
            assert said == completion.text + (last or "") and len(set(completion.text)) <= 1
            assert completion.finish == ("length" if last is None else "stop")
            assert len(said) == 6 or last == said[-2:]
            seen.add(last)
    assert seen >= {"ab", "ba"}


def test_beams_follow_a_grammar():
    """Each beam is somewhere else in it: the answers are the likeliest of those it allows."""
    pytest.importorskip("llguidance")
    words = ["tea", "ten", "to", "inn", "in", "coffee"]
    engine = fake_engine(FakeProgram(257))
    grammar = Grammar("choice", json.dumps(words))

    def asked(n):
        return SamplingParams(beam_width=8, n=n, max_tokens=9, grammar=grammar, logprobs=True)

    got = engine.generate([[9]], asked(6))
    assert sorted(c.text for c in got) == sorted(words)
    assert all(c.finish == "stop" and c.ids[-1] == 256 for c in got)
    means = [sum(entry.logprob for entry in c.logprobs) / len(c.ids) for c in got]
    assert means == sorted(means, reverse=True)
    with pytest.raises(RequestError, match="6 of the 7 answers"):
        engine.generate([[9]], asked(7))
    engine.check()
    assert engine.idle and engine.snapshot().pages_used == 0


def test_a_beam_that_is_stuck_gives_way_to_the_others():
    """After 'a' nothing is allowed; the search goes on with the rest, and fails only without."""
    rng = np.random.default_rng(0)
    bad = tuple(f"a{chr(one)}" for one in range(97, 100))
    allowed = frozenset(range(97, 100))
    params = SamplingParams(
        beam_width=3, n=3, max_tokens=4, allowed_ids=allowed, bad_words=bad, ignore_eos=True
    )
    for _ in range(4):
        prompt = rng.integers(0, 257, 5).tolist()
        for completion in fake_engine(FakeProgram(257)).generate([prompt], params):
            assert "a" not in completion.text[:-1] and len(completion.ids) == 4
    stuck = SamplingParams(beam_width=2, max_tokens=4, allowed_ids=frozenset({97}), bad_words="aa")
    with pytest.raises(RequestError, match="0 of the 1 answers"):
        fake_engine(FakeProgram(257)).generate([[1]], stuck)


@pytest.mark.parametrize("kind", ["penalties", "grammar"])
def test_beams_are_the_same_beside_others_and_short_of_pages(kind):
    """Promise 1: chunks, neighbors and preemption change no bit of any beam."""
    more = {"repetition_penalty": 1.4, "frequency_penalty": 0.5, "stop": ("ab",), "min_tokens": 3}
    if kind == "grammar":
        pytest.importorskip("llguidance")
        more = {"grammar": Grammar("regex", "[a-e]{4,20}"), "presence_penalty": 1.0}
    params = SamplingParams(beam_width=4, n=2, max_tokens=24, logprobs=True, **more)
    prompt = [*range(100), 62]
    alone = fake_engine(FakeProgram(257), prefix_cache=False).generate([prompt], params)
    engine = fake_engine(FakeProgram(257), max_batch=6, token_budget=11, context=256, page_count=8)
    for number in range(4):
        others = SamplingParams(max_tokens=150, ignore_eos=True)
        engine.submit(engine.request([*prompt[:70], number], others))
    got = engine.generate([prompt], params)
    assert engine.snapshot().preemptions_total > 0, "the pages sufficed: nothing was tested"
    assert [(c.ids, c.text, c.logprobs) for c in got] == [
        (c.ids, c.text, c.logprobs) for c in alone
    ]


def test_what_shapes_draws_is_refused():
    engine = fake_engine()
    with pytest.raises(RequestError, match="does not take temperature, top_k"):
        engine.generate([[1]], SamplingParams(beam_width=2, temperature=1, top_k=3))
    with pytest.raises(RequestError, match="at most beam_width"):
        engine.generate([[1]], SamplingParams(beam_width=2, n=3))
    with pytest.raises(RequestError, match="streamed"):
        engine.stream([1], SamplingParams(beam_width=2))


def test_a_server_searches_beside_other_requests():
    params = SamplingParams(beam_width=3, n=3, max_tokens=12)
    expected = [c.ids for c in fake_engine().generate([[1, 2, 3]], params)]

    async def run():
        service = Service(fake_engine())
        service.start()
        engine = service.engine
        other = service.submit(engine.request([5], SamplingParams(max_tokens=50)))
        got = await search_on(service, engine.request([1, 2, 3], params))
        other.cancel()
        await service.stop()
        return [completion.ids for completion in got]

    assert asyncio.run(run()) == expected

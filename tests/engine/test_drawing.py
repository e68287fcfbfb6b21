"""From logits to tokens: every constraint is kept, and a token is a function of the tokens before."""

from dataclasses import dataclass

import numpy as np
import pytest
from fakes import ByteTokenizer, FakeProgram, fake_engine, parrot
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.engine.constrain import Constrainer
from slipstream.engine.drawing import Drawer
from slipstream.engine.request import Request, SamplingParams
from slipstream.engine.sampler import ReferenceSampler, logprob
from slipstream.engine.words import completing_ids, token_words
from slipstream.errors import RequestError

VOCABULARY = 257


@dataclass
class Tokens:
    request: Request
    ids: list[int]

    @property
    def answer_length(self):
        return len(self.ids) - len(self.request.prompt_ids)


def request_of(params, prompt=(1, 2), id_=1):
    constraints = Constrainer(ByteTokenizer(), VOCABULARY).constraints(params)
    ends = params.stop_ids | {256}
    return Request(id_, tuple(prompt), params, 7, 50, ends, constraints=constraints)


def draw(params, logits, answer=(), drawer=None):
    request = request_of(params)
    drawn = (drawer or Drawer()).draw(
        np.array([logits], np.float32), [Tokens(request, [*request.prompt_ids, *answer])]
    )
    return drawn.tokens.get(1), drawn


def rising(*highest):
    """Logits that rise with the id, except that the named ids are the highest, in order."""
    logits = np.arange(VOCABULARY, dtype=np.float32) / 1000
    for rank, token in enumerate(highest):
        logits[token] = 50 - rank
    return logits


def test_bias_is_added():
    assert draw(SamplingParams(logit_bias={5: 100}), rising(9))[0] == 5
    assert draw(SamplingParams(logit_bias={9: -100}), rising(9, 8))[0] == 8


def test_only_allowed_ids_are_drawn():
    assert draw(SamplingParams(allowed_ids=[3, 4]), rising(9))[0] == 4
    greater = SamplingParams(allowed_ids=[3, 4], temperature=100, seed=1)
    assert {draw(greater, rising(9), [0] * n)[0] for n in range(50)} == {3, 4}


def test_a_bad_word_is_forbidden_only_at_its_last_token():
    params = SamplingParams(bad_words=["cat"])
    assert draw(params, rising(ord("c")))[0] == ord("c")
    assert draw(params, rising(ord("t"), 5), b"ca")[0] == 5
    assert draw(params, rising(ord("t"), 5), b"a")[0] == ord("t")
    assert draw(params, rising(ord("t"), 5), b" ca")[0] == 5


def test_a_bad_word_is_known_with_and_without_a_space_before():
    assert token_words(ByteTokenizer(), ["no", " no"]) == (tuple(b"no"), tuple(b" no"))


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=3)), st.lists(st.integers(0, 2)))
def test_completing_ids_equal_the_obvious_way(words, answer):
    words = [tuple(word) for word in words]
    expected = {i for i in range(3) for word in words if tuple([*answer, i][-len(word) :]) == word}
    assert set(completing_ids(words, answer)) == expected


def test_no_end_comes_before_min_tokens():
    params = SamplingParams(min_tokens=2, stop_ids=[7])
    assert draw(params, rising(256, 7, 5))[0] == 5
    assert draw(params, rising(256, 7, 5), [1])[0] == 5
    assert draw(params, rising(256, 7, 5), [1, 1])[0] == 256


def test_an_end_that_the_model_has_no_logit_for_needs_no_forbidding():
    params = SamplingParams(min_tokens=2, stop_ids=[7, 99_999])
    assert draw(params, rising(7, 5))[0] == 5


def test_min_tokens_hold_in_a_whole_answer():
    engine = fake_engine(FakeProgram(VOCABULARY, parrot("ab")))
    params = SamplingParams(min_tokens=9, max_tokens=20)
    (completion,) = engine.generate("Hi>", params)
    assert len(completion.ids) == 10 and completion.finish == "stop"


def test_contradicting_constraints_end_the_request_alone():
    params = SamplingParams(allowed_ids=[5], bad_words=["\x05"])
    token, drawn = draw(params, rising(9))
    assert token is None and "contradict" in str(drawn.failed[1])
    engine = fake_engine(FakeProgram(VOCABULARY, parrot("fine")))
    other = engine.stream("Hi>")
    with pytest.raises(RequestError, match="contradict"):
        engine.generate("Hi>", params)
    assert "".join(delta.text for delta in other) == "fine"
    engine.check()


@pytest.mark.parametrize(
    ("field", "value"), [("logit_bias", {VOCABULARY: 1}), ("allowed_ids", [3, 999])]
)
def test_ids_outside_the_vocabulary_are_refused(field, value):
    engine = fake_engine(FakeProgram(VOCABULARY))
    with pytest.raises(RequestError, match=f"{field} has token id"):
        engine.request("Hi", SamplingParams(**{field: value}))


def test_logprobs_are_of_the_logits_as_the_model_gave_them():
    params = SamplingParams(allowed_ids=[3, 4], logprobs=True, top_logprobs=2)
    token, drawn = draw(params, rising(9))
    assert drawn.logprobs[1] == (logprob(rising(9), token, 2),)
    assert drawn.logprobs[1][0].top[0][0] == 9


def test_scores_are_logprobs_of_given_tokens():
    rows = np.random.default_rng(0).normal(size=(5, VOCABULARY)).astype(np.float32)
    scored = Drawer().score(rows, (3, 1, 4), 2)
    assert scored == [logprob(row, token, 2) for row, token in zip(rows, (3, 1, 4), strict=False)]


params_of = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.7, 1.5]),
    top_p=st.sampled_from([1.0, 0.9]),
    typical_p=st.sampled_from([1.0, 0.9]),
    repetition_penalty=st.sampled_from([1.0, 1.3]),
    presence_penalty=st.sampled_from([0.0, 1.0]),
    frequency_penalty=st.sampled_from([0.0, -0.5]),
    logit_bias=st.sampled_from([(), ((3, 5.0),)]),
    allowed_ids=st.sampled_from([None, frozenset(range(100))]),
    bad_words=st.sampled_from([(), ("\x03", "\x04\x05")]),
    min_tokens=st.sampled_from([0, 5]),
)


@settings(max_examples=60, deadline=None)
@given(params_of, st.integers(0, 2**32), st.data())
def test_tokens_do_not_depend_on_what_the_drawer_saw_before(params, seed, data):
    """Kept state or none, alone or in a batch, native or reference: the same token."""
    generator = np.random.default_rng(seed)
    request = request_of(params)
    drawer = Drawer()
    ids = [*request.prompt_ids]
    for _ in range(8):
        row = (generator.normal(size=VOCABULARY) * 3).astype(np.float32)
        other = Tokens(request_of(SamplingParams(temperature=1), id_=2), [1, 2, 3])
        kept = drawer.draw(np.stack([row, row]), [Tokens(request, ids), other]).tokens[1]
        fresh = Drawer(sampler=ReferenceSampler()).draw(row[None], [Tokens(request, ids)])
        assert kept == fresh.tokens[1]
        ids.append(kept)
        if data.draw(st.booleans()):
            drawer.forget(1)

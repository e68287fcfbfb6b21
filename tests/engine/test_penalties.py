"""Penalties: HF's repetition, OpenAI's presence and frequency; counts that follow the tokens."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from slipstream.engine.penalties import Penalties
from slipstream.engine.request import SamplingParams


def penalized(params, prompt, answer, logits):
    out = np.array(logits, np.float32)
    Penalties(params, len(prompt)).apply(out, [*prompt, *answer])
    return out.tolist()


def test_repetition_divides_what_is_positive_and_multiplies_what_is_negative():
    params = SamplingParams(repetition_penalty=2)
    assert penalized(params, [0], [1, 1], [4, -4, 4, -4]) == [2, -8, 4, -4]


def test_presence_counts_once_and_frequency_each_time_and_only_in_the_answer():
    assert penalized(SamplingParams(presence_penalty=0.5), [0], [1, 1], [3, 3, 3]) == [3, 2.5, 3]
    assert penalized(SamplingParams(frequency_penalty=0.5), [0], [1, 1], [3, 3, 3]) == [3, 2, 3]


def test_negative_penalties_encourage():
    assert penalized(SamplingParams(frequency_penalty=-1), [], [2], [0, 0, 0]) == [0, 0, 1]


tokens = st.lists(st.integers(0, 300), max_size=200)


@given(tokens, tokens, st.data())
def test_following_step_by_step_equals_beginning_anew(prompt, answer, data):
    params = SamplingParams(repetition_penalty=1.3, presence_penalty=0.7, frequency_penalty=0.2)
    followed = Penalties(params, len(prompt))
    logits = np.random.default_rng(1).normal(size=301).astype(np.float32)
    for length in data.draw(st.lists(st.integers(0, len(answer)), max_size=6)):
        out = logits.copy()
        followed.apply(out, [*prompt, *answer[:length]])
        assert out.tolist() == penalized(params, prompt, answer[:length], logits)


@given(tokens, tokens)
def test_equals_the_obvious_way(prompt, answer):
    params = SamplingParams(repetition_penalty=1.5, presence_penalty=0.25, frequency_penalty=0.5)
    logits = np.random.default_rng(2).normal(size=301).astype(np.float32)
    expected = logits.copy()
    for token in set(prompt + answer):
        value = expected[token]
        expected[token] = value / np.float32(1.5) if value > 0 else value * np.float32(1.5)
    for token in set(answer):
        expected[token] -= np.float32(0.5) * np.float32(answer.count(token))
        expected[token] -= np.float32(0.25)
    assert penalized(params, prompt, answer, logits) == expected.tolist()

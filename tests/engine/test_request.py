"""Sampling parameters are checked when they are made."""

import math

import pytest

from slipstream.engine.grammar import Grammar
from slipstream.engine.request import Request, SamplingParams
from slipstream.errors import RequestError


def test_defaults_are_greedy_and_open_ended():
    params = SamplingParams()
    assert params.temperature == 0 and params.max_tokens is None and not params.stop


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("top_p", math.nan),
        ("min_p", -0.1),
        ("min_p", 1.5),
        ("max_tokens", 0),
        ("stop", ("",)),
        ("stop", tuple("abcdefghijklmnopq")),
        ("seed", -1),
        ("seed", 2**64),
        ("top_logprobs", 1),
        ("top_logprobs", 21),
        ("typical_p", 0.0),
        ("typical_p", math.nan),
        ("n", 0),
        ("n", 129),
        ("beam_width", 0),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", math.inf),
        ("presence_penalty", 2.1),
        ("frequency_penalty", -2.1),
        ("frequency_penalty", math.nan),
        ("logit_bias", {3: 101.0}),
        ("logit_bias", {3: math.nan}),
        ("logit_bias", {-1: 1.0}),
        ("logit_bias", {"x": 1.0}),
        ("logit_bias", ((3, 1.0), (3, 2.0))),
        ("allowed_ids", ()),
        ("allowed_ids", (-1,)),
        ("bad_words", ("",)),
        ("bad_words", ("a" * 129,)),
        ("min_tokens", -1),
        ("prompt_logprobs", -1),
        ("prompt_logprobs", 21),
        ("stop_ids", (-1,)),
    ],
)
def test_out_of_range_is_refused_by_name(field, value):
    with pytest.raises(RequestError, match=field):
        SamplingParams(**{field: value})


def test_one_stop_string_is_a_tuple_of_one():
    assert SamplingParams(stop="END").stop == ("END",)
    assert SamplingParams(stop_ids=[3, 3]).stop_ids == frozenset({3})


def test_a_mapping_becomes_sorted_pairs():
    assert SamplingParams(logit_bias={9: -1, 3: 2}).logit_bias == ((3, 2.0), (9, -1.0))
    assert SamplingParams(bad_words="no", allowed_ids=[4, 4]).allowed_ids == frozenset({4})
    hash(SamplingParams(logit_bias={9: -1}, allowed_ids=[1], bad_words=["no"]))


def test_what_contradicts_itself_is_refused():
    with pytest.raises(RequestError, match="min_tokens must be at most max_tokens"):
        SamplingParams(min_tokens=3, max_tokens=2)
    grammar = Grammar("regex", "a+")
    with pytest.raises(RequestError, match="min_tokens must be 0 with a grammar"):
        SamplingParams(min_tokens=3, grammar=grammar)
    with pytest.raises(RequestError, match="ignore_eos"):
        SamplingParams(ignore_eos=True, grammar=grammar)


@pytest.mark.parametrize(
    ("kind", "source", "told"),
    [
        ("xml", "a", "one of json_schema"),
        ("regex", "", "is empty"),
        ("ebnf", "a" * 262_145, "at most 262144"),
        ("json_schema", {"type": "object"}, "must be text"),
    ],
)
def test_a_grammar_is_checked_when_it_is_made(kind, source, told):
    with pytest.raises(RequestError, match=told):
        Grammar(kind, source)


def test_a_request_knows_its_greatest_length():
    assert Request(1, (5, 6), SamplingParams(), 0, 10).length_max == 12

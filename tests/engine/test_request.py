"""Sampling parameters are checked when they are made."""

import math

import pytest

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
    ],
)
def test_out_of_range_is_refused_by_name(field, value):
    with pytest.raises(RequestError, match=field):
        SamplingParams(**{field: value})


def test_one_stop_string_is_a_tuple_of_one():
    assert SamplingParams(stop="END").stop == ("END",)
    assert SamplingParams(stop_ids=[3, 3]).stop_ids == frozenset({3})


def test_a_request_knows_its_greatest_length():
    assert Request(1, (5, 6), SamplingParams(), 0, 10).length_max == 12

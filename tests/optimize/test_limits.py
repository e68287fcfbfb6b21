"""Limits as users write them, and as they must not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipstream.evaluate.interval import Measured
from slipstream.optimize.limits import COMPARISONS, DEFAULT, LimitError, parse_limit, parse_limits


@pytest.mark.parametrize(
    ("text", "metric", "value"),
    [
        ("kl<0.02", "kl", 0.02), ("KL < 2e-2", "kl", 0.02), ("top1>0.95", "top1", 0.95), ("top1>95%", "top1", 0.95),
        ("ppl_ratio<1.05", "ppl_ratio", 1.05), ("memory<1GB", "memory", 1e9), ("memory<1GiB", "memory", 2**30),
        ("size<80MB", "size", 80e6), ("size<64mib", "size", 64 * 2**20), ("decode>100", "decode", 100),
        ("prefill>500tok/s", "prefill", 500), ("  size  <  .5 GB ", "size", 5e8),
    ],
)  # fmt: skip
def test_limits_are_read(text: str, metric: str, value: float) -> None:
    limit = parse_limit(text)
    assert (limit.metric, limit.comparison) == (metric, COMPARISONS[metric])
    assert limit.value == pytest.approx(value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("kl", "not understood"), ("kl<", "not understood"), ("kl<-1", "not understood"), ("<0.1", "not understood"),
        ("kl<1e", "unit of kl"), ("speed>3", "no metric 'speed'"), ("kl>0.1", "smaller: write kl<0.1"),
        ("top1<0.9", "larger: write top1>0.9"), ("kl<=0.1", "write kl<0.1"), ("kl=0.1", "write kl<0.1"),
        ("size<80", "80MB"), ("size<80 parsecs", "80MB"), ("kl<0.1MB", "unit of kl"), ("top1>95", "percentage"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(text: str, words: str) -> None:
    with pytest.raises(LimitError, match=words):
        parse_limit(text)


@given(st.text(max_size=30))
def test_no_text_crashes(text: str) -> None:
    try:
        parse_limit(text)
    except LimitError as error:
        assert str(error)


def test_none_means_the_default_and_twice_is_refused() -> None:
    assert [limit.text for limit in parse_limits([])] == [DEFAULT]
    with pytest.raises(LimitError, match="twice"):
        parse_limits(["kl<0.1", "kl<0.2"])


def test_a_parsed_limit_judges() -> None:
    assert parse_limit("size<80MB").met_by(Measured.exact(79e6))
    assert not parse_limit("size<80MB").met_by(Measured.exact(80e6))

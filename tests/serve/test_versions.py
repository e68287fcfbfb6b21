"""Which version answers: defaults, canaries, and what cannot be taken away."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipstream.errors import RequestError
from slipstream.serve.canary import Canary
from slipstream.serve.versions import Conflict, Versions


def versions_of(*names):
    versions = Versions("m", names[0], names[0])
    for name in names[1:]:
        versions.add(name, name)
    return versions


def test_the_first_version_is_the_default_until_another_is_set():
    versions = versions_of("1", "2")
    assert versions.pick("anybody") == "1"
    versions.set_default("2")
    assert versions.pick("anybody") == "2"


def test_the_default_of_others_stays_and_the_last_one_may_go():
    versions = versions_of("1", "2")
    with pytest.raises(Conflict, match="make another one the default first: '2'"):
        versions.remove("1")
    versions.remove("2")
    assert versions.remove("1") == "1" and not versions


def test_a_canary_goes_with_its_version_and_ends_as_default():
    versions = versions_of("1", "2", "3")
    versions.set_canary(Canary("2", 50))
    versions.remove("2")
    assert versions.canary is None
    versions.set_canary(Canary("3", 50))
    versions.set_default("3")
    assert versions.canary is None
    with pytest.raises(Conflict, match="no canary"):
        versions.set_canary(Canary("3", 1))
    with pytest.raises(RequestError, match="has no version '9'"):
        versions.set_canary(Canary("9", 1))


@given(st.integers(0, 100), st.integers(0, 100), st.text(max_size=8))
def test_more_percent_only_moves_callers_to_the_canary(less, more, who):
    less, more = sorted((less, more))
    if Canary("2", less).takes("m", who):
        assert Canary("2", more).takes("m", who)
    assert Canary("2", 100).takes("m", who) and not Canary("2", 0).takes("m", who)


@pytest.mark.parametrize("percent", [1, 10, 50, 90])
def test_the_share_is_what_was_asked_for(percent):
    canary = Canary("2", percent)
    taken = sum(canary.takes("m", f"user {n}") for n in range(10_000))
    assert abs(taken - 100 * percent) < 200  # four standard deviations of a fair draw


def test_a_caller_always_meets_the_same_version():
    versions = versions_of("1", "2")
    versions.set_canary(Canary("2", 50))
    for who in ("alice", "bob", "carol", "dave"):
        assert len({versions.pick(who) for _ in range(20)}) == 1


@pytest.mark.parametrize("percent", [-1, 101, float("nan")])
def test_a_percentage_is_one(percent):
    with pytest.raises(RequestError, match="percent must be in"):
        Canary("2", percent)

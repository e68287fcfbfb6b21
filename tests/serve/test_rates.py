"""Limits of accounts: buckets, concurrency, and how limits are written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipstream.errors import OverloadedError, RequestError
from slipstream.serve.rates import Account, AccountLimits, Accounts, Bucket


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@given(
    per_minute=st.integers(1, 1000),
    gaps=st.lists(st.floats(0, 30), min_size=1, max_size=60),
)
def test_a_bucket_lets_through_a_minute_s_worth_and_what_has_refilled(per_minute, gaps):
    clock = Clock()
    bucket = Bucket(per_minute, clock)
    passed = 0
    for gap in gaps:
        clock.now += gap
        while bucket.wait_s(1) == 0:
            bucket.spend(1)
            passed += 1
    assert passed <= per_minute + clock.now * per_minute / 60 + 1e-6


@given(spent=st.floats(1, 500), wanted=st.floats(0.1, 100))
def test_the_wait_that_is_told_is_enough(spent, wanted):
    clock = Clock()
    bucket = Bucket(60, clock)
    bucket.spend(spent)
    clock.now += bucket.wait_s(wanted) + 1e-6
    assert bucket.wait_s(wanted) == 0


def test_requests_a_minute_are_refused_with_the_wait():
    clock = Clock()
    account = Account("a", AccountLimits(rpm=2), clock)
    for _ in range(2):
        with account.request():
            pass
    with pytest.raises(OverloadedError, match="2 requests a minute") as caught, account.request():
        pass
    assert caught.value.retry_after_s == pytest.approx(30)
    clock.now += 30
    with account.request():
        pass


def test_requests_at_once_are_counted_while_they_last():
    account = Account("a", AccountLimits(concurrent=1))
    with account.request(), pytest.raises(OverloadedError, match="1 requests open"):
        account.request().__enter__()
    with account.request():
        pass


def test_tokens_of_answers_are_paid_afterwards():
    clock = Clock()
    account = Account("a", AccountLimits(tpm=100), clock)
    account.check_tokens(100)
    account.spend_tokens(150)
    with pytest.raises(OverloadedError) as caught:
        account.check_tokens(1)
    assert caught.value.retry_after_s == pytest.approx(51 * 60 / 100)
    with pytest.raises(RequestError, match="the prompt has 101"):
        account.check_tokens(101)


def test_limits_are_read_as_they_are_written():
    parsed = AccountLimits.parse("rpm=60, tpm=20000,concurrent=4,priority=-3")
    assert parsed == AccountLimits(60, 20000, 4, -3)
    assert AccountLimits.parse("") == AccountLimits()


@pytest.mark.parametrize("text", ["rpm", "rpm=", "rpm=x", "rpm=-1", "rpm=0", "speed=3", "rpm=1.5"])
def test_limits_with_a_mistake_are_refused(text):
    with pytest.raises(RequestError):
        AccountLimits.parse(text)


def test_new_limits_keep_what_is_open():
    accounts = Accounts(AccountLimits(concurrent=5))
    with accounts.of("a").request():
        accounts.limit("a", AccountLimits(concurrent=1))
        with pytest.raises(OverloadedError):
            accounts.of("a").request().__enter__()

"""What each account may use: requests and tokens a minute, requests at once.

An account is the name behind an API key, or "" where the server needs none. The middleware enters
requests, `admission` spends tokens; both are refused here with the wait that would be enough.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields

from slipstream.errors import OverloadedError, RequestError

Clock = Callable[[], float]


@dataclass(frozen=True)
class AccountLimits:
    """What one account may use; None: as much as there is.

    rpm         requests a minute, with bursts of as many as a minute allows
    tpm         tokens a minute, of prompts and answers together
    concurrent  requests at once
    priority    the best it may ask for; the lower, the earlier a request runs
    """

    rpm: int | None = None
    tpm: int | None = None
    concurrent: int | None = None
    priority: int = 0

    @classmethod
    def parse(cls, text: str) -> "AccountLimits":
        """From ``rpm=60,tpm=20000,concurrent=4,priority=10``; RequestError says what is wrong."""
        found: dict[str, int] = {}
        known = [one.name for one in fields(cls)]
        for part in filter(None, text.split(",")):
            name, _, value = (piece.strip() for piece in part.partition("="))
            if name not in known:
                raise RequestError(f"there is no limit {name!r}; there are {', '.join(known)}")
            if not value.removeprefix("-" if name == "priority" else "").isdecimal():
                raise RequestError(f"the limit {name} must be a whole number, not {value!r}")
            found[name] = int(value)
        limits = cls(**found)
        if 0 in (limits.rpm, limits.tpm, limits.concurrent):
            raise RequestError("a limit of 0 lets nothing in; remove the key instead")
        return limits


class Bucket:
    """Refills at a steady rate up to a minute's worth. What is spent after the fact may make it
    negative; then it lets nothing through until it has refilled.
    """

    def __init__(self, per_minute: float, clock: Clock) -> None:
        self.size = per_minute
        self._clock = clock
        self._level = per_minute
        self._seen_s = clock()

    def spend(self, amount: float) -> None:
        """Takes `amount`, be it there or not."""
        self._refill()
        self._level -= amount

    def wait_s(self, amount: float) -> float:
        """How long until `amount` is there; 0: it is."""
        self._refill()
        return max(0.0, (min(amount, self.size) - self._level) * 60 / self.size)

    def _refill(self) -> None:
        now = self._clock()
        self._level = min(self.size, self._level + (now - self._seen_s) * self.size / 60)
        self._seen_s = now


class Account:
    """One account's use of the server."""

    def __init__(self, name: str, limits: AccountLimits, clock: Clock = time.monotonic) -> None:
        self.name = name
        self.limits = limits
        self.requests_open = 0
        self._requests = None if limits.rpm is None else Bucket(limits.rpm, clock)
        self._tokens = None if limits.tpm is None else Bucket(limits.tpm, clock)

    @contextmanager
    def request(self) -> Iterator[None]:
        """Counts a request while it is open. OverloadedError when there are too many."""
        most = self.limits.concurrent
        if most is not None and self.requests_open >= most:
            raise overloaded(f"this key may have {most} requests open at once", 1)
        if self._requests is not None:
            wait_s = self._requests.wait_s(1)
            if wait_s:
                raise overloaded(f"this key may send {self.limits.rpm} requests a minute", wait_s)
            self._requests.spend(1)
        self.requests_open += 1
        try:
            yield
        finally:
            self.requests_open -= 1

    def check_tokens(self, count: int) -> None:
        """OverloadedError unless so many tokens are there now; nothing is spent."""
        if self._tokens is None:
            return
        if count > self._tokens.size:
            raise RequestError(
                f"this key may use {self.limits.tpm} tokens a minute, the prompt has {count}"
            )
        wait_s = self._tokens.wait_s(max(1, count))
        if wait_s:
            raise overloaded(f"this key may use {self.limits.tpm} tokens a minute", wait_s)

    def spend_tokens(self, count: int) -> None:
        """Tokens of a prompt that is taken, or of an answer as it grows."""
        if self._tokens is not None and count:
            self._tokens.spend(count)


class Accounts:
    """Every account that has been seen, by name."""

    def __init__(self, default: AccountLimits | None = None) -> None:
        self._default = default or AccountLimits()
        self._accounts: dict[str, Account] = {}

    def of(self, name: str) -> Account:
        """The account of a name that a key ring vouches for."""
        if name not in self._accounts:
            self._accounts[name] = Account(name, self._default)
        return self._accounts[name]

    def limit(self, name: str, limits: AccountLimits | None) -> None:
        """Sets an account's limits (None: the default ones); those that stay keep their books."""
        limits = limits or self._default
        if self.of(name).limits != limits:
            fresh = Account(name, limits)
            fresh.requests_open = self._accounts[name].requests_open
            self._accounts[name] = fresh


def overloaded(message: str, wait_s: float) -> OverloadedError:
    """The error of a request that came too early, with the wait that would be enough."""
    error = OverloadedError(f"{message}; try again in {max(1, round(wait_s + 0.5))} s")
    error.retry_after_s = wait_s
    return error

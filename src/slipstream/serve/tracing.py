"""Traces of requests, for those who ask for them: HTTP request → queue → prefill → decode.

This page imports nothing: `Tracer` and `Span` do nothing, `otel.OtelTracer` records. Spans carry
counts and times, never the text of a prompt or an answer.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

from slipstream.engine.answer import Timings


class Span:
    """One HTTP request; this one is not recorded."""

    def answer(self, model: str, finish: str, timings: Timings) -> None:
        """An answer of the request has ended."""

    def answered(self, status: int, request_id: str) -> None:
        """The response has gone out."""


NOTHING = Span()
_current: ContextVar[Span] = ContextVar("span", default=NOTHING)


def current() -> Span:
    """The span of the request that this task works for."""
    return _current.get()


class Tracer:
    """Makes the span of each request; this one records nothing."""

    @contextmanager
    def request(self, method: str, path: str, headers: Mapping[str, str]) -> Iterator[Span]:
        """The span of a request, current while it lasts."""
        yield NOTHING

    def close(self) -> None:
        """Sends what has not been sent."""


@contextmanager
def as_current(span: Span) -> Iterator[Span]:
    """Makes a span the one that `current` returns."""
    token = _current.set(span)
    try:
        yield span
    finally:
        _current.reset(token)

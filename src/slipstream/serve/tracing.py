"""Traces of requests, for those who ask for them: HTTP request → queue → prefill → decode.

`Tracer` and `Span` here record nothing and import nothing; `otel.OtelTracer` records. Spans carry
counts and times, never the text of a prompt or an answer.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

from slipstream.engine.answer import Timings


class Span:
    """One HTTP request; this one is not recorded, but adds up its answers for the log."""

    def __init__(self) -> None:
        self.totals: dict[str, str | int] = {}

    def answer(self, model: str, finish: str, timings: Timings) -> None:
        """An answer of the request has ended."""
        seen = self.totals
        seen["model"], seen["finish"] = model, finish
        for name, count in (
            ("answers", 1),
            ("prompt_tokens", timings.prompt_tokens),
            ("cached_tokens", timings.cached_tokens),
            ("answer_tokens", timings.answer_tokens),
        ):
            seen[name] = int(seen.get(name, 0)) + count

    def answered(self, status: int, request_id: str) -> None:
        """The response has gone out."""


NOBODY = Span()  # outside of any request
_current: ContextVar[Span] = ContextVar("span", default=NOBODY)


def current() -> Span:
    """The span of the request that this task works for."""
    return _current.get()


class Tracer:
    """Makes the span of each request; this one records nothing."""

    @contextmanager
    def request(self, method: str, path: str, headers: Mapping[str, str]) -> Iterator[Span]:
        """The span of a request, current while it lasts."""
        with as_current(Span()) as span:
            yield span

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

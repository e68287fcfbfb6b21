"""An answer as it grows: one `Delta` per token, and the `Completion` that the deltas add up to.

The engine feeds each sampled token to the request's `Answer`, which turns it into text and says
when the answer ends. Streaming is the only path: a whole completion is the fold of its deltas.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from slipstream.engine.codec import Decoder
from slipstream.engine.detokenize import TextStream
from slipstream.engine.request import FinishReason, Request
from slipstream.engine.sampler import TokenLogprob
from slipstream.errors import SlipstreamError


@dataclass(frozen=True)
class Timings:
    """When a request arrived, first ran, gave its first token, and ended; seconds, one clock."""

    arrived_s: float
    started_s: float
    first_token_s: float
    finished_s: float
    prompt_tokens: int
    answer_tokens: int
    cached_tokens: int = 0  # of the prompt, found in the prefix cache

    @property
    def first_token_latency_s(self) -> float:
        """From arrival to the first token (TTFT)."""
        return self.first_token_s - self.arrived_s

    @property
    def prefill_tokens_per_s(self) -> float:
        """Prompt tokens over the time from the first step to the first token."""
        return _rate(self.prompt_tokens, self.first_token_s - self.started_s)

    @property
    def decode_tokens_per_s(self) -> float:
        """Tokens after the first over the time they took."""
        return _rate(self.answer_tokens - 1, self.finished_s - self.first_token_s)


@dataclass(frozen=True)
class Delta:
    """What one step adds to one answer. `text` may be empty while a character is incomplete.

    finish           None until the last delta, which also has `timings`
    stopped_by       the stop string or token id that ended the answer, if one did
    prompt_logprobs  in the first delta, if asked for: one of each prompt token after the first
    error            in the last delta, if the request failed by itself: raise it at the client
    """

    request_id: int
    ids: tuple[int, ...]
    text: str
    logprobs: tuple[TokenLogprob, ...] = ()
    finish: FinishReason | None = None
    stopped_by: str | int | None = None
    timings: Timings | None = None
    prompt_logprobs: tuple[TokenLogprob, ...] | None = None
    error: SlipstreamError | None = None


@dataclass(frozen=True)
class Completion:
    """A whole answer. `ids` include a final stop token; `text` has neither it nor a stop string.

    cached_tokens    of the prompt, which the prefix cache or a sibling had computed already
    prompt_logprobs  if asked for: one of each prompt token after the first
    """

    request_id: int
    prompt_ids: tuple[int, ...]
    ids: tuple[int, ...]
    text: str
    logprobs: tuple[TokenLogprob, ...]
    finish: FinishReason
    stopped_by: str | int | None
    timings: Timings
    cached_tokens: int = 0
    prompt_logprobs: tuple[TokenLogprob, ...] | None = None


def fold(prompt_ids: Iterable[int], deltas: Iterable[Delta]) -> Completion:
    """The completion that the deltas of one request, first to last, add up to."""
    parts = list(deltas)
    last = parts[-1]
    assert last.finish is not None and last.timings is not None, "the answer has not ended"
    return Completion(
        request_id=last.request_id,
        prompt_ids=tuple(prompt_ids),
        ids=tuple(token for part in parts for token in part.ids),
        text="".join(part.text for part in parts),
        logprobs=tuple(entry for part in parts for entry in part.logprobs),
        finish=last.finish,
        stopped_by=last.stopped_by,
        timings=last.timings,
        cached_tokens=last.timings.cached_tokens,
        prompt_logprobs=parts[0].prompt_logprobs,
    )


@dataclass
class Answer:
    """One request's answer under way: its text so far, when things happened, whether it is over."""

    request: Request
    decoder: Decoder
    arrived_s: float
    started_s: float | None = None
    first_token_s: float | None = None
    tokens: int = 0
    cached_tokens: int = 0
    prompt_logprobs: list[TokenLogprob] = field(default_factory=list)
    stream: TextStream = field(init=False)

    def __post_init__(self) -> None:
        request = self.request
        params = request.params
        self.stream = TextStream(
            self.decoder, request.prompt_ids, params.stop, skip_special=params.skip_special
        )

    def push(self, token: int, logprobs: tuple[TokenLogprob, ...], now_s: float) -> Delta:
        """The delta of a sampled token; its `finish` says whether it was the last."""
        self.tokens += 1
        delta = self._delta(token, logprobs, now_s)
        if self.tokens == 1 and self.request.params.prompt_logprobs is not None:
            return replace(delta, prompt_logprobs=tuple(self.prompt_logprobs))
        return delta

    def end(
        self, now_s: float, reason: FinishReason, error: SlipstreamError | None = None
    ) -> Delta:
        """The last delta of an answer that is broken off, or that cannot go on."""
        return self._end(Delta(self.request.id, (), "", finish=reason, error=error), now_s)

    def _delta(self, token: int, logprobs: tuple[TokenLogprob, ...], now_s: float) -> Delta:
        id_ = self.request.id
        if self.first_token_s is None:
            self.first_token_s = now_s
        if token in self.request.stop_ids:
            return self._end(Delta(id_, (token,), "", logprobs, "stop", token), now_s)
        text, stopped = self.stream.push(token)
        if stopped is not None:
            return self._end(Delta(id_, (token,), text, logprobs, "stop", stopped), now_s)
        if self.tokens == self.request.max_tokens:
            return self._end(Delta(id_, (token,), text, logprobs, "length"), now_s)
        return Delta(id_, (token,), text, logprobs)

    def _end(self, delta: Delta, now_s: float) -> Delta:
        """The last delta, completed by text that was held back and the timings."""
        if not isinstance(delta.stopped_by, str):
            rest, stopped = self.stream.finish()
            delta = replace(delta, text=delta.text + rest)
            if stopped is not None:
                delta = replace(delta, finish="stop", stopped_by=stopped)
        return replace(delta, timings=self._timings(now_s))

    def _timings(self, now_s: float) -> Timings:
        started = now_s if self.started_s is None else self.started_s
        first = now_s if self.first_token_s is None else self.first_token_s
        return Timings(
            arrived_s=self.arrived_s,
            started_s=started,
            first_token_s=first,
            finished_s=now_s,
            prompt_tokens=len(self.request.prompt_ids),
            answer_tokens=self.tokens,
            cached_tokens=self.cached_tokens,
        )


def _rate(count: int, seconds: float) -> float:
    return count / seconds if count > 0 and seconds > 0 else 0.0

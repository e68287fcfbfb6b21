"""Beam search: the likeliest answers of several that grow side by side.

`BeamSearch` decides, without an engine; `search` and `search_on` drive it with requests of one
token each. Their prompts are the beams, so the prefix cache gives each its parent's pages up to
the last token, shared where beams agree and copied where they part. Scores are those of
transformers' `generate` with `length_penalty=1.0, early_stopping=False`: the sum of an answer's
log-probabilities over its tokens, the end of turn included.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from slipstream.engine.answer import Completion, Delta, Timings, fold
from slipstream.engine.detokenize import TextStream
from slipstream.engine.intake import Prompt, Terms
from slipstream.engine.request import FinishReason, Request, SamplingParams
from slipstream.engine.sampler import TokenLogprob
from slipstream.engine.streams import DeltaStream
from slipstream.errors import RequestError

if TYPE_CHECKING:
    from slipstream.engine.engine import Engine
    from slipstream.engine.service import Service

PLAIN = SamplingParams()
TAKEN = {  # fields that beam search heeds; others shape draws, which it does not make
    "max_tokens", "stop_ids", "ignore_eos", "n", "beam_width", "logprobs", "top_logprobs", "seed",
    "skip_special",
}  # fmt: skip


@dataclass(frozen=True)
class Beam:
    """An answer so far: its tokens, each with its log-probability, and their sum."""

    entries: tuple[TokenLogprob, ...] = ()
    score: float = 0.0

    @property
    def ids(self) -> tuple[int, ...]:
        """The tokens."""
        return tuple(entry.id for entry in self.entries)

    @property
    def mean(self) -> float:
        """The score for each token: what finished beams are ranked by."""
        return self.score / len(self.entries)

    def grown(self, entry: TokenLogprob) -> "Beam":
        """With one more token."""
        return Beam((*self.entries, entry), self.score + entry.logprob)


class BeamSearch:
    """The beams of one prompt, from step to step."""

    def __init__(self, width: int, max_tokens: int, stop_ids: frozenset[int]) -> None:
        self.width = width
        self.rivals = max(2, 1 + len(stop_ids)) * width  # so that enough of them do not end
        self.running: list[Beam] = [Beam()]
        self.finished: list[Beam] = []  # the best first, at most `width`
        self._max_tokens = max_tokens
        self._stop_ids = stop_ids
        self._tokens = 0

    @property
    def done(self) -> bool:
        """Whether no running beam can still come among the best, as the heuristic has it."""
        if not self.running:
            return True
        if len(self.finished) < self.width or not self._tokens:
            return False
        return self.running[0].score / self._tokens <= self.finished[-1].mean

    def grow(self, rivals: Sequence[Sequence[tuple[int, float]]]) -> None:
        """The next step. rivals: (id, log-probability) of each running beam's likeliest tokens."""
        grown = [
            beam.grown(TokenLogprob(token, logprob, tuple(likeliest)))
            for beam, likeliest in zip(self.running, rivals, strict=True)
            for token, logprob in likeliest
        ]
        grown = sorted(grown, key=lambda beam: -beam.score)[: self.rivals]
        self._tokens += 1
        at_end = self._tokens == self._max_tokens
        ends = [at_end or beam.entries[-1].id in self._stop_ids for beam in grown]
        # Only the first `width` may finish: those behind them are there to go on.
        self.finished += [b for b, end in zip(grown[: self.width], ends, strict=False) if end]
        self.finished = sorted(self.finished, key=lambda beam: -beam.mean)[: self.width]
        self.running = [b for b, end in zip(grown, ends, strict=True) if not end][: self.width]


class _Step(SamplingParams):
    """One token, and more of its rivals than a client may ask for."""

    def _check_shape(self) -> None:
        pass


def begin(leader: Request) -> BeamSearch:
    """The search that a request with `beam_width` asks for. RequestError for what it cannot do."""
    params = leader.params
    strange = [
        name
        for name, value in vars(params).items()
        if name not in TAKEN and value != getattr(PLAIN, name)
    ]
    if strange:
        raise RequestError(f"beam search does not take {', '.join(sorted(strange))}")
    if params.n > params.beam_width:
        raise RequestError("n must be at most beam_width")
    return BeamSearch(params.beam_width, leader.max_tokens, leader.stop_ids)


def steps_of(engine: "Engine", leader: Request, state: BeamSearch) -> list[Request]:
    """The requests of the next step: one token for each running beam."""
    params = _Step(max_tokens=1, ignore_eos=True, logprobs=True, top_logprobs=state.rivals)
    now = engine.clock()
    left = None if leader.deadline_s is None else max(leader.deadline_s - now, 1e-9)
    terms = Terms(leader.priority, left, leader.key, leader.adapter)
    prompts = [leader.prompt_ids + beam.ids for beam in state.running]
    return [engine.intake.request(prompt, params, terms) for prompt in prompts]


def search(
    engine: "Engine", prompt: Prompt, params: SamplingParams, adapter: str | None = None
) -> list[Completion]:
    """The `params.n` likeliest answers, the best first."""
    leader = engine.request(prompt, params, adapter=adapter)
    state, began_s = begin(leader), engine.clock()
    first: Timings | None = None
    while not state.done:
        requests = steps_of(engine, leader, state)
        streams = [DeltaStream(engine, request) for request in requests]
        steps = [fold(stream.request.prompt_ids, stream) for stream in streams]
        first = first or steps[0].timings
        state.grow([_rivals(step) for step in steps])
    assert first is not None
    return _completions(engine, leader, state, replace(first, arrived_s=began_s))


async def search_on(service: "Service", leader: Request) -> list[Completion]:
    """The same beside the requests of a server; cancelled, it leaves nothing behind."""
    import asyncio  # noqa: PLC0415  20 ms, which offline answers do not pay

    state, first = begin(leader), None
    while not state.done:
        requests = steps_of(service.engine, leader, state)
        steps = await asyncio.gather(*(_answer(service, request) for request in requests))
        late = next((step for step in steps if not step.ids), None)
        if late is not None:  # its deadline has passed: what there is, is not the best
            return [replace(late, request_id=leader.id, prompt_ids=leader.prompt_ids)]
        first = first or steps[0].timings
        state.grow([_rivals(step) for step in steps])
    assert first is not None
    return _completions(service.engine, leader, state, first)


async def _answer(service: "Service", request: Request) -> Completion:
    with service.submit(request) as stream:
        deltas: list[Delta] = [delta async for delta in stream]
    return fold(request.prompt_ids, deltas)


def _rivals(step: Completion) -> tuple[tuple[int, float], ...]:
    return step.logprobs[0].top


def _completions(
    engine: "Engine", leader: Request, state: BeamSearch, first: Timings
) -> list[Completion]:
    best = state.finished[: leader.params.n]
    timings = replace(
        first,
        finished_s=engine.clock(),
        prompt_tokens=len(leader.prompt_ids),
        answer_tokens=sum(len(beam.entries) for beam in best),
    )
    return [_completion(engine, leader, beam, timings) for beam in best]


def _completion(engine: "Engine", leader: Request, beam: Beam, timings: Timings) -> Completion:
    params, last = leader.params, beam.ids[-1]
    stopped = last in leader.stop_ids
    finish: FinishReason = "stop" if stopped else "length"
    shown = beam.ids[:-1] if stopped else beam.ids
    entries = tuple(replace(e, top=e.top[: params.top_logprobs]) for e in beam.entries)
    return Completion(
        request_id=leader.id,
        prompt_ids=leader.prompt_ids,
        ids=beam.ids,
        text=_text(engine, leader, shown),
        logprobs=entries if params.logprobs else (),
        finish=finish,
        stopped_by=last if stopped else None,
        timings=timings,
        cached_tokens=timings.cached_tokens,
    )


def _text(engine: "Engine", leader: Request, ids: Sequence[int]) -> str:
    stream = TextStream(
        engine.tokenizer, leader.prompt_ids, skip_special=leader.params.skip_special
    )
    text = "".join(stream.push(token)[0] for token in ids)
    return text + stream.finish()[0]

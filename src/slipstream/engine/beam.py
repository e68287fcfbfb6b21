"""Beam search: the likeliest answers of several that grow side by side.

`search` and `search_on` drive `BeamSearch` with requests of one token each. Their prompts are the
beams, so the prefix cache gives each its parent's pages up to the last token, shared where beams
agree and copied where they part. Penalties, biases and constraints are applied to each beam's
logits by its own answer so far; a grammar's state is copied where beams part.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from slipstream.engine.answer import Completion, Delta, Timings, fold
from slipstream.engine.beam_rivals import Rival
from slipstream.engine.beam_search import Beam, BeamSearch
from slipstream.engine.detokenize import TextStream
from slipstream.engine.intake import Prompt
from slipstream.engine.request import FinishReason, Request, SamplingParams
from slipstream.engine.streams import DeltaStream
from slipstream.errors import DeadEndError, RequestError

if TYPE_CHECKING:
    from slipstream.engine.engine import Engine
    from slipstream.engine.service import Service

PLAIN = SamplingParams()
DRAWS = ("temperature", "top_k", "top_p", "min_p", "typical_p")  # beams are not drawn


def begin(engine: "Engine", leader: Request) -> BeamSearch:
    """The search that a request with `beam_width` asks for. RequestError for what it cannot do."""
    params = leader.params
    strange = [name for name in DRAWS if getattr(params, name) != getattr(PLAIN, name)]
    if strange:
        raise RequestError(f"beam search does not take {', '.join(strange)}: it draws nothing")
    if params.n > params.beam_width:
        raise RequestError("n must be at most beam_width")
    text = _text_stream(engine, leader) if params.stop else None
    start = Beam(text=text, grammar=leader.constraints.grammar)
    return BeamSearch(params.beam_width, leader.max_tokens, leader.stop_ids, start)


def steps_of(engine: "Engine", leader: Request, state: BeamSearch) -> list[Request]:
    """The requests of the next step: one token for each running beam."""
    return [
        engine.intake.step(
            leader,
            beam.ids,
            state.rivals,
            replace(leader.constraints, grammar=beam.grammar),
        )
        for beam in state.running
    ]


def search(
    engine: "Engine", prompt: Prompt, params: SamplingParams, adapter: str | None = None
) -> list[Completion]:
    """The `params.n` likeliest answers, the best first."""
    leader = engine.request(prompt, params, adapter=adapter)
    state, began_s = begin(engine, leader), engine.clock()
    first: Completion | None = None
    while not state.done:
        with ExitStack() as stack:
            requests = steps_of(engine, leader, state)
            streams = [stack.enter_context(DeltaStream(engine, request)) for request in requests]
            steps = [_step(stream) for stream in streams]
        first = first or next(filter(None, steps), None)
        state.grow([_rivals(step) for step in steps])
    return _completions(engine, leader, state, first, began_s)


async def search_on(service: "Service", leader: Request) -> list[Completion]:
    """The same beside the requests of a server; cancelled, it leaves nothing behind."""
    import asyncio  # noqa: PLC0415  20 ms, which offline answers do not pay

    state = begin(service.engine, leader)
    first: Completion | None = None
    while not state.done:
        requests = steps_of(service.engine, leader, state)
        steps = await asyncio.gather(*(_answer(service, request) for request in requests))
        late = next((step for step in steps if step is not None and not step.ids), None)
        if late is not None:  # its deadline has passed: what there is, is not the best
            return [replace(late, request_id=leader.id, prompt_ids=leader.prompt_ids)]
        first = first or next(filter(None, steps), None)
        state.grow([_rivals(step) for step in steps])
    return _completions(service.engine, leader, state, first)


def _step(stream: DeltaStream) -> Completion | None:
    """A beam's step; None where its constraints leave it no token."""
    try:
        return fold(stream.request.prompt_ids, stream)
    except DeadEndError:
        return None


async def _answer(service: "Service", request: Request) -> Completion | None:
    """The same, beside others."""
    try:
        with service.submit(request) as stream:
            deltas: list[Delta] = [delta async for delta in stream]
    except DeadEndError:
        return None
    return fold(request.prompt_ids, deltas)


def _rivals(step: Completion | None) -> tuple[Rival, ...]:
    return () if step is None else cast("tuple[Rival, ...]", step.logprobs)


def _completions(
    engine: "Engine",
    leader: Request,
    state: BeamSearch,
    first: Completion | None,
    began_s: float | None = None,
) -> list[Completion]:
    best = state.finished[: leader.params.n]
    if first is None or len(best) < leader.params.n:
        raise DeadEndError(
            f"{len(best)} of the {leader.params.n} answers asked for meet the constraints; ask for "
            "fewer (n), search among more (beam_width) or constrain less"
        )
    timings = replace(
        first.timings,
        arrived_s=first.timings.arrived_s if began_s is None else began_s,
        finished_s=engine.clock(),
        prompt_tokens=len(leader.prompt_ids),
        answer_tokens=sum(len(beam.entries) for beam in best),
    )
    return [
        replace(_completion(engine, leader, beam, timings), prompt_logprobs=first.prompt_logprobs)
        for beam in best
    ]


def _completion(engine: "Engine", leader: Request, beam: Beam, timings: Timings) -> Completion:
    last = beam.ids[-1]
    ended = last in leader.stop_ids
    text, stop = _text(engine, leader, beam.ids[:-1] if ended else beam.ids)
    finish: FinishReason = "stop" if ended or stop is not None else "length"
    return Completion(
        request_id=leader.id,
        prompt_ids=leader.prompt_ids,
        ids=beam.ids,
        text=text,
        logprobs=beam.entries if leader.params.logprobs else (),
        finish=finish,
        stopped_by=stop or (last if ended else None),
        timings=timings,
        cached_tokens=timings.cached_tokens,
    )


def _text(engine: "Engine", leader: Request, ids: Sequence[int]) -> tuple[str, str | None]:
    """The text of a whole answer, and the stop string that ended it."""
    stream = _text_stream(engine, leader)
    pieces = []
    for token in ids:
        piece, stop = stream.push(token)
        pieces.append(piece)
        if stop is not None:
            return "".join(pieces), stop
    rest, stop = stream.finish()
    return "".join(pieces) + rest, stop


def _text_stream(engine: "Engine", leader: Request) -> TextStream:
    params = leader.params
    return TextStream(
        engine.tokenizer, leader.prompt_ids, params.stop, skip_special=params.skip_special
    )

"""From requests to answers: streams of deltas, whole completions, responses.

Handlers choose a shape (`Reply`) and call `respond`; those with shapes of their own read `deltas`
or `completions`. Leaving early cancels what has not ended.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import ExitStack, aclosing

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from slipstream.engine.answer import Completion, Delta, fold
from slipstream.engine.request import Request as EngineRequest
from slipstream.errors import UnavailableError
from slipstream.serve.answer_sources import look_up, open_source, to_compute
from slipstream.serve.beams import beam_completions
from slipstream.serve.refusal import TimedOut
from slipstream.serve.replies import Json, Reply
from slipstream.serve.response_cache_use import CacheUse, use_of
from slipstream.serve.served import Served
from slipstream.serve.stream import Burst, ClientGone, EventStream, News, merged, unless_gone

CLIENT_CLOSED = 499  # as nginx says it; nobody receives it, metrics count it
BROKEN_OFF = ("timeout", "cancelled")  # what `refuse_unfinished` refuses
MODEL_HEADER = "X-Slipstream-Model"  # the version that answered


async def respond(
    http: Request,
    served: Served,
    reply: Reply,
    requests: Sequence[EngineRequest],
    *,
    stream: bool,
) -> Response:
    """The answers to `requests` as one response, whole or as a stream of events."""
    use = use_of(http)
    if stream:
        events = EventStream(_bursts(served, reply, requests, use), reply.framing)
        use.headers = events.headers  # sent with the first event: by then the outcome is known
        events.headers[MODEL_HEADER] = served.label
        return events
    try:
        done = await unless_gone(http.receive, completions(served, requests, use))
    except ClientGone:
        return Response(status_code=CLIENT_CLOSED)
    return JSONResponse(reply.whole(done), headers={MODEL_HEADER: served.label, **use.told})


async def completions(
    served: Served, requests: Sequence[EngineRequest], use: CacheUse | None = None
) -> list[Completion]:
    """Whole answers, in the order of the requests."""
    if requests[0].params.beam_width > 1:
        found = await beam_completions(served, requests)
        for done in found:
            refuse_unfinished(done)
        return found
    collected: list[list[Delta]] = [[] for _ in requests]
    async with aclosing(arrivals(served, requests, use, patient=True)) as arriving:
        async for index, news in arriving:
            refuse_unfinished(news[-1])
            collected[index] += news
    return _folded(requests, collected)


async def deltas(
    served: Served, requests: Sequence[EngineRequest], use: CacheUse | None = None
) -> AsyncGenerator[tuple[int, Delta], None]:
    """The same as `arrivals`, one by one."""
    async with aclosing(arrivals(served, requests, use)) as arriving:
        async for index, news in arriving:
            for delta in news:
                yield index, delta


async def arrivals(
    served: Served,
    requests: Sequence[EngineRequest],
    use: CacheUse | None = None,
    *,
    patient: bool = False,
) -> AsyncGenerator[News, None]:
    """Yields the deltas of the requests, from the cache, from equal requests under way, or from
    the engine; left early, it cancels what has not ended.

    `use` says what the cache may do (None: all it can) and is told what it did. `patient`: each
    answer may come at once, when it is complete.
    """
    use = use or CacheUse()
    looked = await look_up(served, requests, use)
    computed = to_compute(served, looked, use)
    paid = {request.id for request in computed}
    patient = patient and not any(map(served.admission.counts_tokens, computed))
    with ExitStack() as stack:
        stack.enter_context(served.admission.places(computed))
        streams = [
            stack.enter_context(open_source(served, one, use, computed, patient=patient))
            for one in looked
        ]
        watched = served.metrics.watched(merged(streams), len(streams))
        async with aclosing(watched) as arriving:
            async for index, news in arriving:
                if requests[index].id in paid:
                    tokens = sum(len(delta.ids) for delta in news)
                    served.admission.spend(requests[index], tokens)
                yield index, news


async def _bursts(
    served: Served, reply: Reply, requests: Sequence[EngineRequest], use: CacheUse
) -> AsyncGenerator[Burst, None]:
    """The events of a stream, in the reply's shape; the last burst tells how it ended."""
    collected: list[list[Delta]] = [[] for _ in requests]
    answers = len(requests)
    async with aclosing(arrivals(served, requests, use)) as arriving:
        async for index, news in arriving:
            events: list[Json | bytes] = []
            for delta in news:
                if events and delta.finish in BROKEN_OFF:
                    yield Burst(events)
                refuse_unfinished(delta)
                collected[index].append(delta)
                events += reply.events(index, delta)
            answers -= news[-1].finish is not None
            if not answers:
                events += reply.closing(_folded(requests, collected))
            if events:
                yield Burst(events, last=not answers)


def refuse_unfinished(delta: Delta | Completion) -> None:
    """TimedOut or UnavailableError for an answer that was ended before its end."""
    if delta.finish == "timeout":
        raise TimedOut("the answer took longer than this request's timeout; it was ended")
    if delta.finish == "cancelled":
        raise UnavailableError("the answer was cancelled; send the request again")


def _folded(
    requests: Sequence[EngineRequest], collected: Sequence[Sequence[Delta]]
) -> list[Completion]:
    return [
        fold(request.prompt_ids, parts) for request, parts in zip(requests, collected, strict=True)
    ]

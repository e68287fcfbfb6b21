"""From requests to answers: streams of deltas, whole completions, responses.

Handlers choose a shape (`Reply`) and call `respond`; those with shapes of their own read `deltas`
or `completions`. Leaving early cancels what has not ended.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
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
from slipstream.serve.stream import ClientGone, EventStream, merged, unless_gone

CLIENT_CLOSED = 499  # as nginx says it; nobody receives it, metrics count it
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
        events = EventStream(_events(served, reply, requests, use), reply.framing)
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
    async with aclosing(deltas(served, requests, use)) as arriving:
        async for index, delta in arriving:
            refuse_unfinished(delta)
            collected[index].append(delta)
    return _folded(requests, collected)


async def deltas(
    served: Served, requests: Sequence[EngineRequest], use: CacheUse | None = None
) -> AsyncGenerator[tuple[int, Delta], None]:
    """Yields the deltas of the requests, from the cache, from equal requests under way, or from
    the engine; left early, it cancels what has not ended.

    `use` says what the cache may do (None: all it can) and is told what it did.
    """
    use = use or CacheUse()
    looked = await look_up(served, requests, use)
    computed = to_compute(served, looked, use)
    paid = {request.id for request in computed}
    with ExitStack() as stack:
        stack.enter_context(served.admission.places(computed))
        streams = [stack.enter_context(open_source(served, one, use, computed)) for one in looked]
        watched = served.metrics.watched(merged(streams), len(streams))
        async with aclosing(watched) as arriving:
            async for index, delta in arriving:
                if requests[index].id in paid:
                    served.admission.spend(requests[index], len(delta.ids))
                yield index, delta


async def _events(
    served: Served, reply: Reply, requests: Sequence[EngineRequest], use: CacheUse
) -> AsyncIterator[Json]:
    """The events of a stream, in the reply's shape."""
    collected: list[list[Delta]] = [[] for _ in requests]
    async with aclosing(deltas(served, requests, use)) as arriving:
        async for index, delta in arriving:
            refuse_unfinished(delta)
            collected[index].append(delta)
            for event in reply.events(index, delta):
                yield event
    for event in reply.closing(_folded(requests, collected)):
        yield event


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

"""From requests to answers: the only place that submits to an engine.

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
from slipstream.serve.catalog import Served
from slipstream.serve.refusal import TimedOut
from slipstream.serve.replies import Json, Reply
from slipstream.serve.stream import ClientGone, EventStream, merged, unless_gone

CLIENT_CLOSED = 499  # as nginx says it; nobody receives it, metrics count it


async def respond(
    http: Request,
    served: Served,
    reply: Reply,
    requests: Sequence[EngineRequest],
    *,
    stream: bool,
) -> Response:
    """The answers to `requests` as one response, whole or as a stream of events."""
    if stream:
        return EventStream(_events(served, reply, requests), reply.framing)
    try:
        done = await unless_gone(http.receive, completions(served, requests))
    except ClientGone:
        return Response(status_code=CLIENT_CLOSED)
    return JSONResponse(reply.whole(done))


async def completions(served: Served, requests: Sequence[EngineRequest]) -> list[Completion]:
    """Whole answers, in the order of the requests."""
    collected: list[list[Delta]] = [[] for _ in requests]
    async with aclosing(deltas(served, requests)) as arriving:
        async for index, delta in arriving:
            refuse_unfinished(delta)
            collected[index].append(delta)
    return _folded(requests, collected)


async def deltas(
    served: Served, requests: Sequence[EngineRequest]
) -> AsyncGenerator[tuple[int, Delta], None]:
    """Submits the requests, yields their deltas; left early, it cancels what has not ended."""
    with ExitStack() as stack:
        stack.enter_context(served.admission.places(requests))
        streams = [stack.enter_context(served.service.submit(request)) for request in requests]
        watched = served.metrics.watched(merged(streams), len(streams))
        async with aclosing(watched) as arriving:
            async for index, delta in arriving:
                served.admission.spend(requests[index], len(delta.ids))
                yield index, delta


async def _events(
    served: Served, reply: Reply, requests: Sequence[EngineRequest]
) -> AsyncIterator[Json]:
    """The events of a stream, in the reply's shape."""
    collected: list[list[Delta]] = [[] for _ in requests]
    async with aclosing(deltas(served, requests)) as arriving:
        async for index, delta in arriving:
            refuse_unfinished(delta)
            collected[index].append(delta)
            for event in reply.events(index, delta):
                yield event
    for event in reply.closing(_folded(requests, collected)):
        yield event


def refuse_unfinished(delta: Delta) -> None:
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

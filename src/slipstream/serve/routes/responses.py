"""``/v1/responses``: conversations that the server may remember."""

import asyncio
from collections.abc import Callable

from pydantic import ConfigDict, TypeAdapter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from slipstream.serve.admission import read_json
from slipstream.serve.answering import respond
from slipstream.serve.caller import Caller, caller_of
from slipstream.serve.preparing import prepare
from slipstream.serve.replies import Json
from slipstream.serve.response_cache_use import use_of
from slipstream.serve.responses_items import Item
from slipstream.serve.responses_output import OutputItems
from slipstream.serve.responses_reply import ResponsesReply
from slipstream.serve.responses_request import ResponsesRequest
from slipstream.serve.responses_store import ResponseStore, Stored
from slipstream.serve.server import Server

ITEMS: TypeAdapter[list[Item]] = TypeAdapter(list[Item], config=ConfigDict(defer_build=True))


def routes(server: Server) -> list[Route]:
    """Responses: make one, read one, forget one."""
    state = server.state_folder
    store = ResponseStore(state and state / "responses")

    async def create(http: Request) -> Response:
        asked = ResponsesRequest.model_validate(await read_json(http, server.limits))
        caller = caller_of(http, priority=asked.priority, timeout_s=asked.timeout)
        earlier = _earlier(store, asked, caller)
        conversation = asked.conversation(ITEMS.validate_python(earlier))
        served = server.catalog.choose(asked.model, caller.account or asked.user or "")
        params = asked.params()
        served.let_in(1, params, use_of(http))
        ready = await asyncio.to_thread(
            prepare, served.engine.tokenizer, served.dialect, conversation, params
        )
        requests = await served.requests([ready.prompt_ids], ready.params, caller)
        reply = ResponsesReply(
            served.name,
            asked,
            served.engine.tokenizer,
            ready.new_splitter(),
            OutputItems(ready.new_call_id),
            _keeper(store, asked, caller, earlier),
        )
        return await respond(http, served, reply, requests, stream=bool(asked.stream))

    async def retrieve(http: Request) -> Response:
        stored = store.get(http.path_params["response"], caller_of(http).account)
        return JSONResponse(stored.response)

    async def input_items(http: Request) -> Response:
        stored = store.get(http.path_params["response"], caller_of(http).account)
        return JSONResponse({"object": "list", "data": stored.items, "has_more": False})

    async def delete(http: Request) -> Response:
        name = http.path_params["response"]
        store.delete(name, caller_of(http).account)
        return JSONResponse({"id": name, "object": "response", "deleted": True})

    return [
        Route("/v1/responses", create, methods=["POST"]),
        Route("/v1/responses/{response}", retrieve, methods=["GET"]),
        Route("/v1/responses/{response}", delete, methods=["DELETE"]),
        Route("/v1/responses/{response}/input_items", input_items, methods=["GET"]),
    ]


def _earlier(store: ResponseStore, asked: ResponsesRequest, caller: Caller) -> list[Json]:
    """The items of the conversation that is continued."""
    if asked.previous_response_id is None:
        return []
    before = store.get(asked.previous_response_id, caller.account)
    return [*before.items, *before.response["output"]]


def _keeper(
    store: ResponseStore, asked: ResponsesRequest, caller: Caller, earlier: list[Json]
) -> Callable[[Json], None]:
    """What stores a finished response, if the client did not forbid it."""

    def keep(response: Json) -> None:
        if asked.store is not False:
            sent = [item.model_dump(mode="json", exclude_none=True) for item in asked.items()]
            store.put(Stored(caller.account, response, [*earlier, *sent]))

    return keep

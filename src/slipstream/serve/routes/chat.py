"""``/v1/chat/completions``."""

import asyncio

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from slipstream.serve.admission import read_json
from slipstream.serve.answering import respond
from slipstream.serve.caller import caller_of
from slipstream.serve.openai_chat import ChatRequest
from slipstream.serve.openai_chat_reply import ChatReply
from slipstream.serve.preparing import prepare
from slipstream.serve.response_cache_use import use_of
from slipstream.serve.server import Server


def routes(server: Server) -> list[Route]:
    """Chat completions."""

    async def chat_completions(http: Request) -> Response:
        asked = ChatRequest.model_validate(await read_json(http, server.limits))
        caller = caller_of(http, priority=asked.priority, timeout_s=asked.timeout)
        params, conversation = asked.params(), asked.conversation()
        served = server.catalog.choose(asked.model, caller.account or asked.user or "")
        served.let_in(asked.answers, params, use_of(http))
        codec = served.engine.tokenizer
        ready = await asyncio.to_thread(prepare, codec, served.dialect, conversation, params)
        requests = await served.requests([ready.prompt_ids], ready.params, caller)
        reply = ChatReply(
            served.name,
            codec,
            ready.new_splitter,
            ready.new_call_id,
            n=params.n,
            include_usage=asked.include_usage,
            show_prompt_logprobs=asked.prompt_logprobs is not None,
        )
        return await respond(http, served, reply, requests, stream=bool(asked.stream))

    return [Route("/v1/chat/completions", chat_completions, methods=["POST"])]

"""``/v1/chat/completions``."""

import asyncio

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from slipstream.serve.admission import read_json
from slipstream.serve.answering import respond
from slipstream.serve.caller import caller_of
from slipstream.serve.openai import ChatRequest
from slipstream.serve.replies import Reply
from slipstream.serve.server import Server


def routes(server: Server) -> list[Route]:
    """Chat completions."""

    async def chat_completions(http: Request) -> Response:
        asked = ChatRequest.model_validate(await read_json(http, server.limits))
        messages = [message.message() for message in asked.messages]
        caller = caller_of(http, priority=asked.priority, timeout_s=asked.timeout)
        served = server.catalog.choose(asked.model)
        served.admission.admit()
        prompt = await asyncio.to_thread(served.engine.chat_ids, messages)
        requests = await served.requests([prompt], asked.params(), caller)
        reply = Reply("chat", served.name, served.engine.tokenizer)
        return await respond(
            http,
            served,
            reply,
            requests,
            stream=bool(asked.stream),
            include_usage=asked.include_usage,
        )

    return [Route("/v1/chat/completions", chat_completions, methods=["POST"])]

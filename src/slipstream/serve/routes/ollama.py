"""Ollama's ``/api/…``, so that its clients work here too."""

import asyncio
import json
from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from slipstream import __version__
from slipstream.engine.codec import TextCodec
from slipstream.errors import RequestError
from slipstream.serve.admission import read_json
from slipstream.serve.answering import respond
from slipstream.serve.caller import caller_of
from slipstream.serve.ollama_cards import shown, tags
from slipstream.serve.ollama_reply import OllamaReply, loaded
from slipstream.serve.ollama_request import (
    Asked,
    OllamaChatRequest,
    OllamaGenerateRequest,
    Options,
    ShowRequest,
)
from slipstream.serve.preparing import Prepared, plainly, prepare
from slipstream.serve.response_cache_use import use_of
from slipstream.serve.served import Served
from slipstream.serve.server import Server

Handler = Callable[[Request], Awaitable[Response]]


def routes(server: Server) -> list[Route]:
    """Chat, generate, and what there is."""

    async def chat(http: Request) -> Response:
        asked = OllamaChatRequest.model_validate(await read_json(http, server.limits))
        return await _answered(server, http, asked, empty=not asked.messages)

    async def generate(http: Request) -> Response:
        asked = OllamaGenerateRequest.model_validate(await read_json(http, server.limits))
        return await _answered(server, http, asked, empty=not asked.prompt)

    async def list_models(http: Request) -> Response:
        return JSONResponse(tags(server.catalog))

    async def show(http: Request) -> Response:
        asked = ShowRequest.model_validate(await read_json(http, server.limits))
        return JSONResponse(shown(_chosen(server, asked.model or asked.name or "")))

    async def version(http: Request) -> Response:
        return JSONResponse({"version": __version__})

    return [
        Route("/api/chat", _telling(server, chat), methods=["POST"]),
        Route("/api/generate", _telling(server, generate), methods=["POST"]),
        Route("/api/tags", _telling(server, list_models), methods=["GET"]),
        Route("/api/show", _telling(server, show), methods=["POST"]),
        Route("/api/version", version, methods=["GET"]),
    ]


async def _answered(
    server: Server,
    http: Request,
    asked: OllamaChatRequest | OllamaGenerateRequest,
    *,
    empty: bool,
) -> Response:
    caller = caller_of(http)
    served = _chosen(server, asked.model, caller.account)
    chat = isinstance(asked, OllamaChatRequest)
    if empty:
        return JSONResponse(loaded(asked.model, chat))
    (asked.options or Options()).check_context(served.engine.settings.context)
    reasons = served.dialect.reasons or served.dialect.speaks_in_channels
    if asked.think and not reasons:
        raise RequestError(f"think: '{served.name}' does not reason")
    served.let_in(1, asked.params(), use_of(http))
    ready = await asyncio.to_thread(_prepared, served, asked)
    requests = await served.requests([ready.prompt_ids], ready.params, caller)
    codec: TextCodec = served.engine.tokenizer
    reply = OllamaReply(asked.model, codec, ready.new_splitter(), chat)
    return await respond(http, served, reply, requests, stream=asked.stream is not False)


def _prepared(served: Served, asked: Asked) -> Prepared:
    codec, params = served.engine.tokenizer, asked.params()
    if isinstance(asked, OllamaGenerateRequest) and (asked.raw or codec.chat is None):
        if asked.system and not asked.raw:
            raise RequestError("system: this model has no chat template that could hold it")
        return plainly(codec, asked.prompt or "", params)
    assert isinstance(asked, OllamaChatRequest | OllamaGenerateRequest)
    return prepare(codec, served.dialect, asked.conversation(), params)


def _chosen(server: Server, name: str, who: str = "") -> Served:
    """``name:latest`` is the default version, as it is everywhere with Ollama."""
    return server.catalog.choose(name.removesuffix(":latest"), who)


def _telling(server: Server, handler: Handler) -> Handler:
    """`handler`, its refusals in Ollama's shape: ``{"error": "…"}``."""

    async def told(http: Request) -> Response:
        try:
            return await handler(http)
        except Exception as error:
            refused = await server.refuse(http, error)
            message = json.loads(bytes(refused.body))["error"]["message"]
            kept = {key: value for key, value in refused.headers.items() if key == "retry-after"}
            return JSONResponse({"error": message}, refused.status_code, kept)

    return told

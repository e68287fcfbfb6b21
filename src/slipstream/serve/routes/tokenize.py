"""``/tokenize`` and ``/detokenize``."""

import asyncio

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from slipstream.engine.request import SamplingParams
from slipstream.errors import RequestError
from slipstream.serve.admission import read_json
from slipstream.serve.openai_logprobs import spelled
from slipstream.serve.openai_tokenize import DetokenizeRequest, TokenizeRequest
from slipstream.serve.preparing import prepare
from slipstream.serve.replies import Json
from slipstream.serve.served import Served
from slipstream.serve.server import Server


def routes(server: Server) -> list[Route]:
    """Text to token ids and back."""

    def choose(name: str | None) -> Served:
        return server.catalog.choose(next(iter(server.catalog)).name if name is None else name)

    async def tokenize(http: Request) -> Response:
        asked = TokenizeRequest.model_validate(await read_json(http, server.limits))
        return JSONResponse(await asyncio.to_thread(_tokenized, choose(asked.model), asked))

    async def detokenize(http: Request) -> Response:
        asked = DetokenizeRequest.model_validate(await read_json(http, server.limits))
        codec = choose(asked.model).engine.tokenizer
        if max(asked.tokens, default=0) >= codec.vocabulary_size:
            raise RequestError(f"tokens must lie in 0…{codec.vocabulary_size - 1}")
        return JSONResponse({"prompt": codec.decode(asked.tokens, skip_special=False)})

    return [
        Route("/tokenize", tokenize, methods=["POST"]),
        Route("/detokenize", detokenize, methods=["POST"]),
    ]


def _tokenized(served: Served, asked: TokenizeRequest) -> Json:
    codec = served.engine.tokenizer
    conversation = asked.conversation()
    if conversation is None:
        ids = codec.encode(asked.prompt or "", special=asked.add_special_tokens is not False)
    else:
        ids = prepare(codec, served.dialect, conversation, SamplingParams()).prompt_ids
    strings = [spelled(codec, token) for token in ids] if asked.return_token_strs else None
    return {
        "count": len(ids),
        "max_model_len": served.engine.settings.context,
        "tokens": ids,
        "token_strs": strings,
    }

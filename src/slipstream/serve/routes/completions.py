"""``/v1/completions``."""

from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from slipstream.engine.codec import Decoder
from slipstream.engine.request import Request as EngineRequest
from slipstream.serve.admission import read_json
from slipstream.serve.answering import respond
from slipstream.serve.caller import caller_of
from slipstream.serve.openai_completion import CompletionRequest
from slipstream.serve.openai_completion_reply import CompletionReply
from slipstream.serve.response_cache_use import use_of
from slipstream.serve.server import Server


def routes(server: Server) -> list[Route]:
    """Plain completions."""

    async def completions(http: Request) -> Response:
        asked = CompletionRequest.model_validate(await read_json(http, server.limits))
        caller = caller_of(http, priority=asked.priority, timeout_s=asked.timeout)
        prompts, params = asked.prompts(), asked.params()
        served = server.catalog.choose(asked.model, caller.account or asked.user or "")
        served.let_in(len(prompts) * asked.answers, params, use_of(http))
        requests = await served.requests(prompts, params, caller)
        codec = served.engine.tokenizer
        reply = CompletionReply(
            served.name,
            codec,
            [request.prompt_ids for request in requests],
            n=params.n,
            include_usage=asked.include_usage,
            echoes=_echoes(prompts, requests, codec, params.n) if asked.echo else None,
            show_prompt_logprobs=asked.prompt_logprobs is not None,
        )
        return await respond(http, served, reply, requests, stream=bool(asked.stream))

    return [Route("/v1/completions", completions, methods=["POST"])]


def _echoes(
    prompts: Sequence[str | list[int]], requests: Sequence[EngineRequest], codec: Decoder, n: int
) -> list[str]:
    """The prompt of each request, as the client gave it or as its ids read."""
    return [
        prompt if isinstance(prompt, str) else codec.decode(request.prompt_ids)
        for prompt, request in zip(
            (prompt for prompt in prompts for _ in range(n)), requests, strict=True
        )
    ]

"""``/v1/completions``."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from slipstream.serve.admission import read_json
from slipstream.serve.answering import respond
from slipstream.serve.caller import caller_of
from slipstream.serve.openai import CompletionRequest
from slipstream.serve.replies import Reply
from slipstream.serve.server import Server


def routes(server: Server) -> list[Route]:
    """Plain completions."""

    async def completions(http: Request) -> Response:
        asked = CompletionRequest.model_validate(await read_json(http, server.limits))
        caller = caller_of(http, priority=asked.priority, timeout_s=asked.timeout)
        served = server.catalog.choose(asked.model)
        prompts = asked.prompts()
        served.admission.admit(len(prompts))
        requests = await served.requests(prompts, asked.params(), caller)
        reply = Reply("completion", served.name, served.engine.tokenizer)
        return await respond(
            http,
            served,
            reply,
            requests,
            stream=bool(asked.stream),
            include_usage=asked.include_usage,
        )

    return [Route("/v1/completions", completions, methods=["POST"])]

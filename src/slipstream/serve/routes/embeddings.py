"""``/v1/embeddings``."""

import asyncio
from collections.abc import Iterator, Sequence
from operator import methodcaller

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from slipstream.errors import PromptTooLongError
from slipstream.serve.admission import read_json
from slipstream.serve.answering import CLIENT_CLOSED
from slipstream.serve.caller import caller_of
from slipstream.serve.openai_embeddings import EmbeddingsRequest, Vector, embeddings_object
from slipstream.serve.served import Served
from slipstream.serve.server import Server
from slipstream.serve.stream import ClientGone, unless_gone


def routes(server: Server) -> list[Route]:
    """Embeddings."""

    async def embeddings(http: Request) -> Response:
        asked = EmbeddingsRequest.model_validate(await read_json(http, server.limits))
        caller = caller_of(http)
        served = server.catalog.choose(asked.model, caller.account or asked.user or "")
        served.admission.admit()
        prompts = await asyncio.to_thread(_tokenized, served, asked.inputs())
        tokens = sum(map(len, prompts))
        account = server.limits.accounts.of(caller.account)
        account.check_tokens(tokens)
        account.spend_tokens(tokens)
        try:
            work = _vectors(served, prompts, asked)
            vectors = await unless_gone(http.receive, work)
        except ClientGone:
            return Response(status_code=CLIENT_CLOSED)
        spelled = [asked.spelled(vector) for vector in vectors]
        return JSONResponse(embeddings_object(served.name, spelled, tokens))

    return [Route("/v1/embeddings", embeddings, methods=["POST"])]


def _tokenized(served: Served, inputs: Sequence[str | list[int]]) -> list[tuple[int, ...]]:
    """Each input's ids. Refused: none, unknown ones, more than the context holds."""
    engine = served.engine
    most = min(engine.settings.context, served.limits.max_prompt_tokens or engine.settings.context)
    prompts = [tuple(engine.intake.prompt_ids(one)) for one in inputs]
    for place, ids in enumerate(prompts):
        if len(ids) > most:
            raise PromptTooLongError(f"input {place} has {len(ids)} tokens, of at most {most}")
    return prompts


async def _vectors(
    served: Served, prompts: Sequence[tuple[int, ...]], asked: EmbeddingsRequest
) -> list[Vector]:
    """Computed in portions of about a step, so that answers under way are not held up."""
    vectors: list[Vector] = []
    for portion in _portions(prompts, served.engine.settings.limits.token_budget):
        vectors += await served.service.call(
            methodcaller("embed", portion, asked.pooling or "mean")
        )
    return vectors


def _portions(
    prompts: Sequence[tuple[int, ...]], tokens_most: int
) -> Iterator[list[tuple[int, ...]]]:
    """Neighbors of together at most `tokens_most` tokens; a longer prompt is alone."""
    portion: list[tuple[int, ...]] = []
    tokens = 0
    for prompt in prompts:
        if portion and tokens + len(prompt) > tokens_most:
            yield portion
            portion, tokens = [], 0
        portion.append(prompt)
        tokens += len(prompt)
    yield portion

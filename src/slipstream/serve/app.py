"""The routes. Each handler reads like the walk of a request: schema, admission, service, reply.

Built on Starlette itself: bodies are validated by pydantic into OpenAI's own error shape, and the
import costs a quarter of FastAPI's, which counts towards the first token after a start.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import ExitStack, aclosing, asynccontextmanager

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from slipstream.engine.answer import Completion, Delta, fold
from slipstream.engine.engine import Engine, Prompt
from slipstream.engine.request import Request as EngineRequest
from slipstream.engine.request import SamplingParams
from slipstream.engine.service import Service
from slipstream.errors import SlipstreamError
from slipstream.serve.admission import Admission, AdmissionLimits, read_json
from slipstream.serve.metrics import Metrics
from slipstream.serve.openai import ChatRequest, CompletionRequest, Generation
from slipstream.serve.refusal import ModelNotFound, refusal_of
from slipstream.serve.replies import Json, Kind, Reply, usage
from slipstream.serve.stream import ClientGone, EventStream, merged, unless_gone

REFUSED = (HTTPException, SlipstreamError, ValidationError, Exception)
CLIENT_CLOSED = 499  # as nginx says it; nobody receives it, metrics count it


def make_app(
    engine: Engine, *, name: str | None = None, limits: AdmissionLimits | None = None
) -> Starlette:
    """An ASGI application that serves `engine` as `name`; its lifespan runs the engine's thread."""
    server = Server(engine, name or engine.name, limits or AdmissionLimits())
    app = Starlette(
        routes=[
            Route("/v1/chat/completions", server.chat_completions, methods=["POST"]),
            Route("/v1/completions", server.completions, methods=["POST"]),
            Route("/v1/models", server.models),
            Route("/v1/models/{model:path}", server.model),
            Route("/health", server.health),
            Route("/metrics", server.metrics_text),
        ],
        exception_handlers=dict.fromkeys(REFUSED, server.refuse),
        lifespan=server.lifespan,
    )
    app.state.service = server.service
    return app


class Server:
    """What the handlers share: one engine's service, its admission, its metrics."""

    def __init__(self, engine: Engine, name: str, limits: AdmissionLimits) -> None:
        self.engine = engine
        self.name = name
        self.service = Service(engine)
        self.limits = limits
        self.admission = Admission(self.service, limits)
        self.metrics = Metrics(name, self.service.snapshot)
        self.created = int(time.time())

    @asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        """Runs the engine's thread while the application runs; answers what is open, then stops."""
        self.service.start()
        yield
        await self.service.stop()

    # Answers.

    async def chat_completions(self, http: Request) -> Response:
        """``POST /v1/chat/completions``."""
        asked = ChatRequest.model_validate(await read_json(http, self.limits))
        messages = [message.message() for message in asked.messages]
        self._check_model(asked.model)
        self.admission.admit()
        prompt = await asyncio.to_thread(self.engine.chat_ids, messages)
        return await self._answer(http, asked, "chat", [prompt], asked.params())

    async def completions(self, http: Request) -> Response:
        """``POST /v1/completions``."""
        asked = CompletionRequest.model_validate(await read_json(http, self.limits))
        self._check_model(asked.model)
        prompts = asked.prompts()
        self.admission.admit(len(prompts))
        return await self._answer(http, asked, "completion", prompts, asked.params())

    async def _answer(
        self,
        http: Request,
        asked: Generation,
        kind: Kind,
        prompts: Sequence[Prompt],
        params: SamplingParams,
    ) -> Response:
        requests = await asyncio.to_thread(self._requests, prompts, params)
        reply = Reply(kind, self.name, self.engine.tokenizer)
        if asked.stream:
            return EventStream(self._chunks(reply, requests, asked.include_usage))
        try:
            completions = await unless_gone(http.receive, self._completions(requests))
        except ClientGone:
            return Response(status_code=CLIENT_CLOSED)
        return JSONResponse(reply.whole(completions))

    def _requests(self, prompts: Sequence[Prompt], params: SamplingParams) -> list[EngineRequest]:
        """Tokenizes and checks; runs on a worker thread, since prompts may be long."""
        requests = [self.engine.request(prompt, params) for prompt in prompts]
        for request in requests:
            self.admission.check_lengths(len(request.prompt_ids), params.max_tokens)
        return requests

    async def _chunks(
        self, reply: Reply, requests: Sequence[EngineRequest], include_usage: bool
    ) -> AsyncIterator[Json]:
        """The events of a stream. Deltas without anything to show are passed over."""
        collected: list[list[Delta]] = [[] for _ in requests]
        async with aclosing(self._deltas(requests)) as deltas:
            async for index, delta in deltas:
                first = not collected[index]
                collected[index].append(delta)
                if first or delta.text or delta.logprobs or delta.finish:
                    yield reply.chunk(index, delta, first)
        if include_usage:
            yield reply.usage_chunk(usage(_folded(requests, collected)))

    async def _completions(self, requests: Sequence[EngineRequest]) -> list[Completion]:
        collected: list[list[Delta]] = [[] for _ in requests]
        async with aclosing(self._deltas(requests)) as deltas:
            async for index, delta in deltas:
                collected[index].append(delta)
        return _folded(requests, collected)

    async def _deltas(
        self, requests: Sequence[EngineRequest]
    ) -> AsyncGenerator[tuple[int, Delta], None]:
        """Submits the requests, yields their deltas; left early, it cancels what has not ended."""
        self.admission.admit(len(requests))
        with ExitStack() as stack:
            streams = [stack.enter_context(self.service.submit(request)) for request in requests]
            async with aclosing(self.metrics.watched(merged(streams), len(streams))) as deltas:
                async for item in deltas:
                    yield item

    def _check_model(self, name: str) -> None:
        if name != self.name:
            message = f"The model '{name}' does not exist here; this server has '{self.name}'"
            raise ModelNotFound(message)

    # Everything else.

    async def models(self, http: Request) -> Response:
        """``GET /v1/models``."""
        return JSONResponse({"object": "list", "data": [self._model_card()]})

    async def model(self, http: Request) -> Response:
        """``GET /v1/models/NAME``."""
        self._check_model(http.path_params["model"])
        return JSONResponse(self._model_card())

    async def health(self, http: Request) -> Response:
        """``GET /health``: 200 while requests are taken, 503 otherwise."""
        alive = self.service.alive
        return JSONResponse({"status": "ok" if alive else "stopping"}, 200 if alive else 503)

    async def metrics_text(self, http: Request) -> Response:
        """``GET /metrics``, for Prometheus."""
        return Response(self.metrics.text(), media_type=self.metrics.content_type)

    async def refuse(self, http: Request, error: Exception) -> Response:
        """Any exception as OpenAI's error object."""
        refusal = refusal_of(error)
        self.metrics.count_refused(refusal.status)
        return refusal.response()

    def _model_card(self) -> Json:
        return {
            "id": self.name,
            "object": "model",
            "created": self.created,
            "owned_by": "slipstream",
            "max_model_len": self.engine.settings.context,
        }


def _folded(
    requests: Sequence[EngineRequest], collected: Sequence[Sequence[Delta]]
) -> list[Completion]:
    return [
        fold(request.prompt_ids, deltas)
        for request, deltas in zip(requests, collected, strict=True)
    ]

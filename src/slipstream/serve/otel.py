"""Traces by OpenTelemetry: spans to an OTLP endpoint. Needs ``pip install 'slipstream[otel]'``.

`slipstream serve --otlp URL` calls `tracer_to`; nothing else imports this page. A caller's W3C
``traceparent`` becomes the parent of its request.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import Span as OtelSpanHandle
from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace import Tracer as OtelTracerHandle
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from slipstream.engine.answer import Timings
from slipstream.serve.tracing import Span, Tracer, as_current


def tracer_to(endpoint: str) -> "OtelTracer":
    """Sends to an OTLP endpoint over HTTP, such as ``http://localhost:4318/v1/traces``."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415
        OTLPSpanExporter,  # tests record in memory and need no exporter
    )

    exporter: SpanExporter = OTLPSpanExporter(endpoint=endpoint)
    return OtelTracer(BatchSpanProcessor(exporter))


class OtelTracer(Tracer):
    """Records a span for each request, and three for each of its answers."""

    def __init__(self, processor: SpanProcessor) -> None:
        self._provider = TracerProvider(resource=Resource.create({"service.name": "slipstream"}))
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("slipstream.serve")
        self._propagator = TraceContextTextMapPropagator()

    @contextmanager
    def request(self, method: str, path: str, headers: Mapping[str, str]) -> Iterator[Span]:
        """The span of a request, under the caller's where it sent a ``traceparent``."""
        carrier = {name: headers[name] for name in ("traceparent", "tracestate") if name in headers}
        with (
            self._tracer.start_as_current_span(
                f"{method} {path}",
                context=self._propagator.extract(carrier),
                kind=SpanKind.SERVER,
                attributes={"http.request.method": method, "url.path": path},
            ) as handle,
            as_current(OtelSpan(self._tracer, handle)) as span,
        ):
            yield span

    def close(self) -> None:
        """Sends what has not been sent."""
        self._provider.shutdown()


class OtelSpan(Span):
    """One request's span."""

    def __init__(self, tracer: OtelTracerHandle, handle: OtelSpanHandle) -> None:
        super().__init__()
        self._tracer = tracer
        self._handle = handle

    def answer(self, model: str, finish: str, timings: Timings) -> None:
        """Three spans, one after the other, from the engine's own times."""
        super().answer(model, finish, timings)
        parent = set_span_in_context(self._handle)
        tokens = timings.answer_tokens
        named: dict[str, Any] = {"gen_ai.request.model": model}
        self._part("queue", parent, timings.arrived_s, timings.started_s, named)
        self._part(
            "prefill",
            parent,
            timings.started_s,
            timings.first_token_s,
            {**named, "gen_ai.usage.input_tokens": timings.prompt_tokens},
        )
        ended = {
            "gen_ai.usage.output_tokens": tokens,
            "gen_ai.response.finish_reasons": (finish,),
        }
        self._part("decode", parent, timings.first_token_s, timings.finished_s, {**named, **ended})

    def answered(self, status: int, request_id: str) -> None:
        """The response has gone out."""
        self._handle.set_attribute("http.response.status_code", status)
        self._handle.set_attribute("slipstream.request_id", request_id)
        if status >= 500:
            self._handle.set_status(Status(StatusCode.ERROR))

    def _part(
        self, name: str, parent: Context, start_s: float, end_s: float, attributes: dict[str, Any]
    ) -> None:
        span = self._tracer.start_span(
            name, context=parent, start_time=_wall_ns(start_s), attributes=attributes
        )
        span.end(_wall_ns(max(start_s, end_s)))


def _wall_ns(monotonic_s: float) -> int:
    """The engine's clock as nanoseconds since 1970."""
    return time.time_ns() - int((time.monotonic() - monotonic_s) * 1e9)

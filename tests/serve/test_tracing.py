"""Traces: one span a request, three for its answer, under the caller's own."""

import subprocess
import sys
import time
from itertools import pairwise

import httpx
import pytest
from fakes import FakeProgram, fake_engine, parrot
from live_server import live

from slipstream.serve.app import make_app

CHAT = {"model": "fake", "messages": [{"role": "user", "content": "a secret word"}]}
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture(scope="module")
def recorded():
    """(URL, list of the spans that have ended)."""
    pytest.importorskip("opentelemetry.sdk")
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    from slipstream.serve.otel import OtelTracer

    memory = InMemorySpanExporter()
    engine = fake_engine(FakeProgram(257, parrot("Hello")))
    app = make_app(engine, name="fake", tracer=OtelTracer(SimpleSpanProcessor(memory)))
    with live(app) as url:
        yield url, memory


def ended(memory, count):
    """The spans by name, once there are so many: the last one ends after the client's response."""
    end = time.monotonic() + 10
    while len(memory.get_finished_spans()) < count:
        assert time.monotonic() < end, memory.get_finished_spans()
        time.sleep(0.01)
    return {span.name: span for span in memory.get_finished_spans()}


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_is_traced_from_queue_to_last_token(recorded, stream):
    url, memory = recorded
    memory.clear()
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "X-Request-Id": "mine"}
    body = {**CHAT, "stream": stream}
    assert httpx.post(f"{url}/v1/chat/completions", json=body, headers=headers).status_code == 200
    spans = ended(memory, 4)
    root = spans["POST /v1/chat/completions"]
    assert f"{root.context.trace_id:032x}" == TRACE and f"{root.parent.span_id:016x}" == PARENT
    assert root.attributes["http.response.status_code"] == 200
    assert root.attributes["slipstream.request_id"] == "mine"
    parts = [spans[name] for name in ("queue", "prefill", "decode")]
    assert all(part.parent.span_id == root.context.span_id for part in parts)
    for earlier, later in pairwise(parts):
        assert abs(earlier.end_time - later.start_time) < 1_000_000  # one clock, read twice
    assert root.start_time <= parts[0].start_time + 1_000_000
    assert parts[1].attributes["gen_ai.usage.input_tokens"] == 31
    assert parts[2].attributes["gen_ai.usage.output_tokens"] == 6
    assert parts[2].attributes["gen_ai.response.finish_reasons"] == ("stop",)
    assert "secret" not in "".join(span.to_json() for span in memory.get_finished_spans())


def test_a_refused_request_is_a_span_too(recorded):
    url, memory = recorded
    memory.clear()
    httpx.post(f"{url}/v1/chat/completions", json={**CHAT, "model": "none"})
    (span,) = ended(memory, 1).values()
    assert span.attributes["http.response.status_code"] == 404 and span.parent is None


def test_who_does_not_trace_does_not_import_it():
    code = "import slipstream.serve.app, slipstream.serve.run, sys; print('opentelemetry' in str(sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr

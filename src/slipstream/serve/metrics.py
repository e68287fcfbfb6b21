"""What the server tells Prometheus; names are vLLM's, under ``slipstream:``.

Gauges and token counts are read from the engine when scraped; latencies are observed as deltas
pass by on their way to clients.
"""

import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from slipstream.engine.answer import Delta, Timings
from slipstream.engine.stats import Snapshot

LATENCY_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
TOKEN_GAP_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536)

LABELS = ["model_name"]


class Metrics:
    """One server's metrics, in a registry of its own."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, model: str, snapshot: Callable[[], Snapshot]) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(EngineCollector(model, snapshot))
        self._model = model
        self._first_token = self._histogram("time_to_first_token_seconds", LATENCY_S)
        self._gap = self._histogram("inter_token_latency_seconds", TOKEN_GAP_S)
        self._whole = self._histogram("e2e_request_latency_seconds", LATENCY_S)
        self._queue = self._histogram("request_queue_time_seconds", LATENCY_S)
        self._prefill = self._histogram("request_prefill_time_seconds", LATENCY_S)
        self._decode = self._histogram("request_decode_time_seconds", LATENCY_S)
        self._prompt = self._histogram("request_prompt_tokens", TOKENS)
        self._answer = self._histogram("request_generation_tokens", TOKENS)
        self._ended = Counter(
            "slipstream:request_success",
            "Requests that ended, by reason.",
            [*LABELS, "finished_reason"],
            registry=self.registry,
        )
        self._refused = Counter(
            "slipstream:request_refused",
            "Requests that were refused or failed, by HTTP status.",
            [*LABELS, "status"],
            registry=self.registry,
        )

    async def watched(
        self, deltas: AsyncIterator[tuple[int, Delta]], answers: int
    ) -> AsyncGenerator[tuple[int, Delta], None]:
        """Passes on the deltas of so many answers, observing when they come and how each ends."""
        try:
            async for item in self._observed(deltas):
                answers -= item[1].finish is not None
                yield item
        finally:
            self._ended.labels(self._model, "abort").inc(answers)  # left or failed before the end

    async def _observed(
        self, deltas: AsyncIterator[tuple[int, Delta]]
    ) -> AsyncGenerator[tuple[int, Delta], None]:
        last_s: dict[int, float] = {}
        async for index, delta in deltas:
            now = time.perf_counter()
            if index in last_s:
                self._gap.observe(now - last_s[index])
            last_s[index] = now
            if delta.finish is not None and delta.timings is not None:
                self._ended.labels(self._model, delta.finish).inc()
                self._observe(delta.timings)
            yield index, delta

    def count_refused(self, status: int) -> None:
        """A request was answered with an error status."""
        self._refused.labels(self._model, str(status)).inc()

    def text(self) -> bytes:
        """The exposition that Prometheus scrapes."""
        return generate_latest(self.registry)

    def _observe(self, timings: Timings) -> None:
        self._first_token.observe(timings.first_token_latency_s)
        self._whole.observe(timings.finished_s - timings.arrived_s)
        self._queue.observe(timings.started_s - timings.arrived_s)
        self._prefill.observe(timings.first_token_s - timings.started_s)
        self._decode.observe(timings.finished_s - timings.first_token_s)
        self._prompt.observe(timings.prompt_tokens)
        self._answer.observe(timings.answer_tokens)

    def _histogram(self, name: str, buckets: tuple[float, ...]) -> Histogram:
        text = name.replace("_", " ").capitalize() + "."
        made = Histogram(
            f"slipstream:{name}", text, LABELS, buckets=buckets, registry=self.registry
        )
        return made.labels(self._model)


class EngineCollector(Collector):
    """Reads the engine's state when scraped."""

    def __init__(self, model: str, snapshot: Callable[[], Snapshot]) -> None:
        self._model = model
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        """One family per number."""
        seen = self._snapshot()
        for name, text, value in (
            ("num_requests_running", "Requests in the running batch.", seen.running),
            ("num_requests_waiting", "Requests waiting for a place.", seen.waiting),
            ("kv_cache_usage_perc", "Share of KV pages in use, 0 to 1.", seen.kv_use),
        ):
            gauge = GaugeMetricFamily(f"slipstream:{name}", text, labels=LABELS)
            gauge.add_metric([self._model], value)
            yield gauge
        for name, text, value in (
            ("prompt_tokens", "Prompt tokens computed.", seen.prompt_tokens_total),
            ("generation_tokens", "Tokens generated.", seen.answer_tokens_total),
            ("num_preemptions", "Requests set back for want of pages.", seen.preemptions_total),
            ("engine_steps", "Steps of the engine.", seen.steps_total),
        ):
            counter = CounterMetricFamily(f"slipstream:{name}", text, labels=LABELS)
            counter.add_metric([self._model], value)
            yield counter

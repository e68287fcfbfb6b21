"""What the server tells Prometheus; names are vLLM's, under ``slipstream:``.

`Metrics` is one model's: gauges and token counts are read from the engine when scraped, latencies
are observed when tokens are handed over and when answers end. `ServerMetrics` is about the whole
process. `exposition` writes them all as one page.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from slipstream.engine.answer import Timings
from slipstream.engine.stats import Snapshot
from slipstream.serve import tracing
from slipstream.serve.stream import News
from slipstream.serve.traffic import Traffic

CONTENT_TYPE = CONTENT_TYPE_LATEST
LATENCY_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
TOKEN_GAP_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536)

LABELS = ["model_name", "version"]
GAUGES = (
    ("num_requests_running", "Requests in the running batch.", "running"),
    ("num_requests_waiting", "Requests waiting for a place.", "waiting"),
    ("kv_cache_usage_perc", "Share of KV pages in use, 0 to 1, where they are scarcest.", "kv_use"),
    ("kv_pages_used", "KV pages that requests under way hold.", "pages_used"),
    ("kv_pages_cached", "KV pages kept for their tokens, free to be taken.", "pages_cached"),
    ("kv_pages", "KV pages there are.", "pages_total"),
)
COUNTERS = (
    ("prompt_tokens", "Tokens of prompts.", "prompt_tokens_total"),
    ("generation_tokens", "Tokens generated.", "answer_tokens_total"),
    ("num_preemptions", "Requests set back for want of pages.", "preemptions_total"),
    ("prefix_cache_queries", "Prompt tokens looked up.", "prefix_queries_total"),
    ("prefix_cache_hits", "Prompt tokens found in the prefix cache.", "prefix_hits_total"),
    ("engine_steps", "Steps of the engine.", "steps_total"),
)


class Metrics:
    """One model's metrics, in a registry of its own: they go when the model goes."""

    def __init__(self, model: str, snapshot: Callable[[], Snapshot], version: str = "") -> None:
        self.registry = CollectorRegistry()
        self._names = (model, version)
        self.registry.register(EngineCollector(self._names, snapshot))
        self._first_token = self._histogram("time_to_first_token_seconds", LATENCY_S)
        self._gap = self._histogram("inter_token_latency_seconds", TOKEN_GAP_S)
        self._whole = self._histogram("e2e_request_latency_seconds", LATENCY_S)
        self._queue = self._histogram("request_queue_time_seconds", LATENCY_S)
        self._prefill = self._histogram("request_prefill_time_seconds", LATENCY_S)
        self._decode = self._histogram("request_decode_time_seconds", LATENCY_S)
        self._prompt = self._histogram("request_prompt_tokens", TOKENS)
        self._answer = self._histogram("request_generation_tokens", TOKENS)
        self._ended = self._counter(
            "request_success", "Requests that ended, by reason.", "finished_reason"
        )
        self._cache = self._counter(
            "response_cache", "Answers by how they were made: hit, shared, miss, bypass.", "outcome"
        )

    async def watched(
        self, arriving: AsyncIterator[News], answers: int
    ) -> AsyncGenerator[News, None]:
        """Passes on the deltas of so many answers, observing how each ends."""
        try:
            async for news in arriving:
                last = news[1][-1]
                answers -= last.finish is not None
                if last.finish is not None and last.timings is not None:
                    self._ended.labels(*self._names, last.finish).inc()
                    self._observe(last.timings)
                    tracing.current().answer(self._names[0], last.finish, last.timings)
                yield news
        finally:
            if answers:  # left or failed before the end
                self._ended.labels(*self._names, "abort").inc(answers)

    def gaps(self, seconds: Sequence[float]) -> None:
        """The times between tokens of answers that a step has added to."""
        for one in seconds:
            self._gap.observe(one)

    def count_cache(self, outcome: str) -> None:
        """An answer came from the response cache, from an equal request, or was computed."""
        self._cache.labels(*self._names, outcome).inc()

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
        return made.labels(*self._names)

    def _counter(self, name: str, text: str, label: str) -> Counter:
        return Counter(f"slipstream:{name}", text, [*LABELS, label], registry=self.registry)


class EngineCollector(Collector):
    """Reads the engine's state when scraped."""

    def __init__(self, names: tuple[str, str], snapshot: Callable[[], Snapshot]) -> None:
        self._names = names
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        """One family per number."""
        seen = self._snapshot()
        for name, text, attribute in GAUGES:
            gauge = GaugeMetricFamily(f"slipstream:{name}", text, labels=LABELS)
            gauge.add_metric(self._names, getattr(seen, attribute))
            yield gauge
        for name, text, attribute in COUNTERS:
            counter = CounterMetricFamily(f"slipstream:{name}", text, labels=LABELS)
            counter.add_metric(self._names, getattr(seen, attribute))
            yield counter


class ServerMetrics(Collector):
    """What concerns no single model: requests, connections, refusals."""

    def __init__(self, traffic: Traffic) -> None:
        self.registry = CollectorRegistry()
        self._traffic = traffic
        self._refused = Counter(
            "slipstream:request_refused",
            "Requests that were refused or failed, by HTTP status.",
            ["status"],
            registry=self.registry,
        )
        self.registry.register(self)

    def count_refused(self, status: int) -> None:
        """A request was answered with an error status."""
        self._refused.labels(str(status)).inc()

    def collect(self) -> Iterator[Metric]:
        """One family per number."""
        seen = self._traffic
        for name, text, value in (
            ("http_requests_open", "HTTP requests under way.", seen.requests_open),
            ("http_connections_open", "Connections open.", seen.connections_open),
            ("draining", "1 while the server takes no new requests.", int(seen.draining)),
        ):
            yield GaugeMetricFamily(f"slipstream:{name}", text, value)
        for name, text, value in (
            ("http_requests", "HTTP requests that have arrived.", seen.requests_total),
            ("http_connections_refused", "Too many were open.", seen.connections_refused),
            ("http_connections_dropped", "They were too slow.", seen.connections_dropped),
        ):
            yield CounterMetricFamily(f"slipstream:{name}", text, value)


class Merged(Collector):
    """Several registries as one: families of the same name become one family."""

    def __init__(self, registries: Iterable[CollectorRegistry]) -> None:
        self._registries = registries

    def collect(self) -> Iterator[Metric]:
        """Each family once, with the samples of all registries."""
        families: dict[str, Metric] = {}
        for registry in self._registries:
            for family in registry.collect():
                if family.name in families:
                    families[family.name].samples.extend(family.samples)
                else:
                    families[family.name] = family
        yield from families.values()


def exposition(registries: Iterable[CollectorRegistry]) -> bytes:
    """The page that Prometheus scrapes."""
    whole = CollectorRegistry()
    whole.register(Merged(list(registries)))
    return generate_latest(whole)

"""What the response cache tells Prometheus; read when scraped. `Server` registers it.

How each model's answers came about is counted by its own metrics (``slipstream:response_cache``).
"""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from slipstream.serve.response_cache import ResponseCache


class CacheCollector(Collector):
    """The counts and the size of one cache."""

    def __init__(self, cache: ResponseCache) -> None:
        self._cache = cache

    def collect(self) -> Iterator[Metric]:
        """One family per number."""
        seen = self._cache.stats
        for name, text, value in (
            ("hits", "Lookups that found an answer.", seen.hits),
            ("misses", "Lookups that found none.", seen.misses),
            ("kept", "Answers that were kept.", seen.kept),
            ("failures", "Times that the store could not be used.", seen.failures),
        ):
            yield CounterMetricFamily(f"slipstream:response_cache_{name}", text, value)
        size = self._cache.size_bytes
        if size is not None:
            yield GaugeMetricFamily(
                "slipstream:response_cache_size_bytes", "Bytes that the answers kept take.", size
            )

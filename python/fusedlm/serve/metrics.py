"""Numbers for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_ENGINE_COUNTS = {
    "prompt_tokens": "Tokens of prompts, those found in the cache included",
    "reused_tokens": "Tokens of prompts that were found in the cache",
    "new_tokens": "Tokens made",
    "guessed_tokens": "Tokens guessed from what was said before",
    "accepted_tokens": "Guessed tokens that were right",
}
_ENGINE_NOW = {"running": "Texts that the engine works on", "waiting": "Texts that wait for it"}


class _EngineStats:
    """Reads the generator's own counts whenever somebody asks."""

    def __init__(self, stats: Callable[[], dict[str, int]]) -> None:
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        values = self._stats()
        for name, text in _ENGINE_COUNTS.items():
            yield CounterMetricFamily(f"fusedlm_{name}", text, value=values[name])
        for name, text in _ENGINE_NOW.items():
            yield GaugeMetricFamily(f"fusedlm_{name}", text, value=values[name])


class Metrics:
    def __init__(self, stats: Callable[[], dict[str, int]], model: str, version: str) -> None:
        self._registry = CollectorRegistry()
        own: dict[str, Any] = {"registry": self._registry}
        self.requests = Counter(
            "fusedlm_requests", "Requests answered", ["endpoint", "status"], **own
        )
        self.in_flight = Gauge("fusedlm_requests_in_flight", "Texts under way or waiting", **own)
        self.refused_connections = Counter(
            "fusedlm_refused_connections", "Connections beyond the most", **own
        )
        self.seconds = Histogram(
            "fusedlm_request_seconds", "Seconds to the end of a request", ["endpoint"],
            buckets=_SECONDS, **own,
        )  # fmt: skip
        self.first_token = Histogram(
            "fusedlm_first_token_seconds", "Seconds to the first token of a text",
            buckets=_SECONDS, **own,
        )  # fmt: skip
        self.finished = Counter("fusedlm_texts", "Texts by how they ended", ["finish"], **own)
        info = Gauge("fusedlm_info", "Always 1", ["model", "version"], **own)
        info.labels(model, version).set(1)
        self._registry.register(_EngineStats(stats))

    def text(self) -> bytes:
        return generate_latest(self._registry)

"""The gateway's own metrics, in a registry of their own. `docs/metrics.md` explains each.

Series whose labels are known beforehand are there from the start, at 0: Prometheus takes the first
value of a series that it has not seen for no increase, and an alert would miss it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import Metric

from lasttoken.gateway.exchange import Exchange
from lasttoken.gateway.keys import LIMITS, ApiKey
from lasttoken.gateway.refusals import INTERNAL, KIND_OF_ERROR

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_BUCKETS_S = (
    0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0,
)  # fmt: skip
_RELOADS = ("ok", "failed")
_STATUSES = ("200", *sorted({str(k.status) for k in KIND_OF_ERROR.values() if k.status >= 500}))
"""Of requests for embeddings: those that `LasttokenGatewayErrors` compares."""
_UPSTREAM_ERRORS = tuple(
    error.__name__
    for error, kind in KIND_OF_ERROR.items()
    if kind is not INTERNAL and not kind.blames_caller
)


class _Registry(CollectorRegistry):
    """Without the time at which each series began: Prometheus' text format makes gauges of them.

    `prometheus_client.disable_created_metrics` is for the whole process, which may not be ours.
    """

    def collect(self) -> Iterator[Metric]:
        for family in super().collect():
            family.samples = [s for s in family.samples if not s.name.endswith("_created")]
            yield family


class GatewayMetrics:
    """All metrics of one gateway.

    Args:
        embedding_routes: Paths that embeddings are asked at.
    """

    def __init__(self, embedding_routes: Iterable[str] = ()) -> None:
        """Register them."""
        self.registry = _Registry()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"lasttoken_gateway_{name}", text, labels, registry=self.registry)

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"lasttoken_gateway_{name}", text, registry=self.registry)

        self.requests = counter("requests", "Requests answered", "route", "status")
        self.seconds = Histogram(
            "lasttoken_gateway_request_seconds",
            "Time from a request's head to the end of its answer",
            ("route",),
            registry=self.registry,
            buckets=_BUCKETS_S,
        )
        self.texts = counter("texts", "Texts embedded", "model")
        self.tokens = counter("tokens", "Tokens of the texts embedded", "model")
        self.truncated = counter("truncated_texts", "Texts cut to the model's maximum", "model")
        self.in_flight = gauge("in_flight_requests", "Requests for embeddings being worked on")
        self.rate_limited = counter("rate_limited", "Requests beyond a key's limit", "key", "limit")
        self.upstream_errors = counter("upstream_errors", "Errors of the server behind", "error")
        self.disconnects = counter("disconnects", "Callers gone before their answer")
        self.keys = gauge("keys", "Valid API keys")
        self.key_reloads = counter("key_reloads", "Readings of a changed key file", "outcome")
        for outcome in _RELOADS:
            self.key_reloads.labels(outcome)
        for error in _UPSTREAM_ERRORS:
            self.upstream_errors.labels(error)
        for route in embedding_routes:
            self.seconds.labels(route)
            for status in _STATUSES:
                self.requests.labels(route, status)

    def valid_keys(self, keys: Iterable[ApiKey]) -> None:
        """Show how many keys there are now, and a counter for each limit that one has."""
        valid = list(keys)
        self.keys.set(len(valid))
        for key in valid:
            for limit in LIMITS:
                if getattr(key, limit) is not None:
                    self.rate_limited.labels(key.name, limit)

    def answered(self, exchange: Exchange, status: int, seconds: float) -> None:
        """Count one request."""
        self.requests.labels(exchange.route, str(status)).inc()
        self.seconds.labels(exchange.route).observe(seconds)

    def exposition(self) -> bytes:
        """All of them in Prometheus' text format."""
        return generate_latest(self.registry)

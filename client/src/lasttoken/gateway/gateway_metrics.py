"""The gateway's own metrics, in a registry of their own. `docs/openai.md` explains each."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from lasttoken.gateway.exchange import Exchange

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_BUCKETS_S = (
    0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0,
)  # fmt: skip


class GatewayMetrics:
    """All metrics of one gateway."""

    def __init__(self) -> None:
        """Register them."""
        self.registry = CollectorRegistry()

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

    def answered(self, exchange: Exchange, status: int, seconds: float) -> None:
        """Count one request."""
        self.requests.labels(exchange.route, str(status)).inc()
        self.seconds.labels(exchange.route).observe(seconds)

    def exposition(self) -> bytes:
        """All of them in Prometheus' text format."""
        return generate_latest(self.registry)

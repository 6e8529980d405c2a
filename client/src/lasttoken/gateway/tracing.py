"""Traces: a span for each request, below the caller's and above those of Triton.

Spans carry the route, the status, the model and how many texts and tokens; never a text or a key.
Whether a trace is kept is the caller's decision where it made one; `OTEL_TRACES_SAMPLER` says it of
the others, `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` name the service.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from starlette.types import Scope

from lasttoken.errors import InvalidInput
from lasttoken.gateway.exchange import Exchange

SERVICE = "lasttoken-gateway"
_PATH = "/v1/traces"


class Tracing:
    """Makes spans and sends them to a collector.

    Args:
        endpoint: OTLP over HTTP, such as `http://collector:4318`.

    Raises:
        InvalidInput: OpenTelemetry's SDK is not installed, or the endpoint is no HTTP address.
    """

    def __init__(self, endpoint: str) -> None:
        if not endpoint.startswith(("http://", "https://")):
            raise InvalidInput(f"otlp_endpoint is {endpoint!r}; write http://HOST:4318")
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import SERVICE_NAME, Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ModuleNotFoundError as error:
            raise InvalidInput(
                f"traces need {error.name!r}: pip install 'lasttoken[tracing]'"
            ) from None
        named = Resource.create().attributes.get(SERVICE_NAME, "")
        unnamed = str(named).startswith("unknown_service")
        resource = Resource.create({SERVICE_NAME: SERVICE} if unnamed else None)
        self._provider = TracerProvider(resource=resource)
        exporter = OTLPSpanExporter(endpoint=endpoint.rstrip("/") + _PATH)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("lasttoken.gateway")

    @contextmanager
    def span(self, scope: Scope, exchange: Exchange) -> Iterator[Any]:
        """Make a request's span the current one, so that the calls to Triton carry it.

        Args:
            scope: The request's, whose headers may name the caller's trace.
            exchange: Read at the end: the attributes are its facts.
        """
        from opentelemetry.propagate import extract
        from opentelemetry.trace import SpanKind, Status, StatusCode

        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in
                   scope["headers"]}  # fmt: skip
        with self._tracer.start_as_current_span(
            scope["method"], context=extract(headers), kind=SpanKind.SERVER,
            record_exception=False, set_status_on_exception=False,
        ) as span:  # fmt: skip
            try:
                yield span
            except BaseException as error:
                # Its kind, but not its message: that may quote a caller's text.
                span.set_attribute("error.type", type(error).__name__)
                span.set_status(Status(StatusCode.ERROR))
                raise
            finally:
                span.update_name(f"{scope['method']} {exchange.route}")
                facts = {
                    "http.request.method": scope["method"],
                    "http.route": exchange.route,
                    "lasttoken.request_id": exchange.request_id,
                    "lasttoken.model": exchange.model,
                    "lasttoken.texts": exchange.texts,
                    "lasttoken.tokens": exchange.tokens,
                    "error.type": exchange.error,
                }
                for name, value in facts.items():
                    if value is not None:
                        span.set_attribute(name, value)
                if exchange.error is not None:
                    span.set_status(Status(StatusCode.ERROR))

    def close(self) -> None:
        """Send what is left; waits for the collector, but not for ever."""
        self._provider.shutdown()

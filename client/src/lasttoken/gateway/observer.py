"""The outermost layer: gives each request its id, counts it, logs it, and answers what failed."""

from __future__ import annotations

import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lasttoken.gateway.dialects import error_at
from lasttoken.gateway.exchange import new_exchange
from lasttoken.gateway.gateway_metrics import GatewayMetrics
from lasttoken.gateway.json_log import log_event, log_exchange
from lasttoken.gateway.refusals import INTERNAL, Refusal
from lasttoken.gateway.tracing import Tracing

GONE = 499
"""Status in logs and metrics of a request whose caller has gone; nginx's number."""

_QUIET = ("/health", "/ready", "/metrics")


class Observer:
    """ASGI middleware around everything."""

    def __init__(
        self, app: ASGIApp, *, metrics: GatewayMetrics, tracing: Tracing | None = None
    ) -> None:
        """Wrap an application."""
        self._app = app
        self._metrics = metrics
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = new_exchange(scope)
        status = 0

        async def observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                extra = {"x-request-id": exchange.request_id, **exchange.headers}
                message["headers"] = [
                    *message["headers"],
                    *((name.encode(), value.encode("latin-1")) for name, value in extra.items()),
                ]
            await send(message)

        try:
            if self._tracing is None or scope["path"] in _QUIET:
                await self._app(scope, receive, observed)
            else:
                with self._tracing.span(scope, exchange) as span:
                    await self._app(scope, receive, observed)
                    span.set_attribute("http.response.status_code", status or GONE)
        except Exception as error:  # noqa: BLE001 - whatever fails, the caller gets an answer
            exchange.error, exchange.cause = INTERNAL.code, type(error).__name__
            log_event("failed", level="error", exc_info=True, request_id=exchange.request_id)
            if not status:
                refusal = Refusal(INTERNAL, "the gateway failed on the request")
                answer = error_at(scope["path"], refusal, exchange)
                await answer(scope, receive, observed)
        finally:
            seconds = time.perf_counter() - exchange.started
            self._metrics.answered(exchange, status or GONE, seconds)
            if exchange.route not in _QUIET or status >= 400:
                log_exchange(
                    exchange, method=scope["method"], status=status or GONE, seconds=seconds
                )

"""The ASGI application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lasttoken.gateway.dialects import DIALECTS, error_at
from lasttoken.gateway.embedding_route import EmbeddingRoute
from lasttoken.gateway.exchange import exchange_of
from lasttoken.gateway.gateway_state import Gateway
from lasttoken.gateway.observer import Observer
from lasttoken.gateway.operations import Handler, Operations, guarded
from lasttoken.gateway.refusals import NO_METHOD, NO_ROUTE, Refusal
from lasttoken.gateway.settings import GatewaySettings


def create_app(settings: GatewaySettings) -> Starlette:
    """Make the gateway as an ASGI application, for any ASGI server.

    Args:
        settings: Where the server is, who may call, what is refused.

    Raises:
        InvalidInput: A key is not valid.
    """
    return gateway_app(Gateway(settings))


def gateway_app(gateway: Gateway) -> Starlette:
    """Make the application of a gateway."""
    operations = Operations(gateway)
    gets = {
        "/v1/models": operations.models,
        "/v1/models/{model:path}": operations.model,
        "/info": operations.info,
        "/health": operations.health,
        "/ready": operations.ready,
        "/metrics": operations.metrics,
        "/openapi.json": operations.openapi,
    }
    routes = [
        Route(dialect.path, _function(EmbeddingRoute(gateway, dialect)), methods=["POST"])
        for dialect in DIALECTS
    ]
    routes += [
        Route(path, guarded(path.replace(":path", ""), handler), methods=["GET"])
        for path, handler in gets.items()
    ]

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await gateway.directory.close()
            if gateway.tracing is not None:
                await asyncio.to_thread(gateway.tracing.close)

    app = Starlette(
        routes=routes,
        middleware=[Middleware(Observer, metrics=gateway.metrics, tracing=gateway.tracing)],
        exception_handlers={HTTPException: _no_route},
        lifespan=lifespan,
    )
    # A redirect would name this process, not the address that the caller knows.
    app.router.redirect_slashes = False
    return app


def _function(route: EmbeddingRoute) -> Handler:
    """A function: Starlette would take the object for an ASGI application."""

    async def handle(request: Request) -> Response:
        return await route(request)

    return handle


async def _no_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path, method = request.url.path, request.method
    if error.status_code == 405:
        refusal = Refusal(NO_METHOD, f"{path} takes no {method}")
    else:
        refusal = Refusal(NO_ROUTE, f"there is no {method} {path} here; see /openapi.json")
    exchange = exchange_of(request)
    exchange.error = refusal.kind.code
    response = error_at(path, refusal, exchange)
    for name, value in (error.headers or {}).items():
        response.headers[name] = value  # Allow
    return response

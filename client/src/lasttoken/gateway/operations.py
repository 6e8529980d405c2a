"""Routes that embed nothing: models, health, readiness, metrics, the OpenAPI document."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response

from lasttoken.errors import LasttokenError
from lasttoken.gateway.embedding_core import EmbedJob, embed
from lasttoken.gateway.exchange import Exchange, exchange_of
from lasttoken.gateway.gateway_metrics import CONTENT_TYPE
from lasttoken.gateway.gateway_state import Gateway
from lasttoken.gateway.openai_shapes import error_response, model_object
from lasttoken.gateway.openapi import openapi_document
from lasttoken.gateway.refusals import DRAINING, NOT_FOUND, UNAVAILABLE, Refusal, refusal_of
from lasttoken.gateway.tei import info_object
from lasttoken.gateway.vector_json import dumps
from lasttoken.liveness import PROBE_CLASSES, is_only_busy, is_unknown_class

_READY_TIMEOUT_S = 10.0

Handler = Callable[[Request], Awaitable[Response]]


def json_response(value: object) -> Response:
    """A value as JSON."""
    return Response(dumps(value), media_type="application/json")


class Operations:
    """The handlers."""

    def __init__(self, gateway: Gateway) -> None:
        """Make the handlers of a gateway."""
        self._gateway = gateway
        self._checked_at = float("-inf")
        self._failure: Refusal | None = None
        self._checking: asyncio.Task[None] | None = None
        self._document = dumps(openapi_document(keys_required=not gateway.access.open_to_all))

    async def models(self, request: Request) -> Response:
        """`GET /v1/models`."""
        exchange = exchange_of(request)
        self._gateway.access.caller(request, exchange)
        listed = await self._gateway.directory.all()
        return json_response({"object": "list", "data": [model_object(model) for model in listed]})

    async def model(self, request: Request) -> Response:
        """`GET /v1/models/{model}`."""
        exchange = exchange_of(request)
        self._gateway.access.caller(request, exchange)
        name = request.path_params["model"]
        if not name:
            raise Refusal(NOT_FOUND, "no model is named behind /v1/models/", param="model")
        model, _ = await self._gateway.directory.find(name)
        return json_response(model_object(model, name=name))

    async def info(self, request: Request) -> Response:
        """`GET /info`."""
        exchange = exchange_of(request)
        self._gateway.access.caller(request, exchange)
        model, _ = await self._gateway.directory.find(None)
        return json_response(info_object(model, self._gateway.settings))

    async def health(self, request: Request) -> Response:  # noqa: ARG002
        """`GET /health`: the process lives."""
        return json_response({"status": "ok"})

    async def ready(self, request: Request) -> Response:  # noqa: ARG002
        """`GET /ready`: every model has just answered a real request."""
        if self._gateway.draining:
            raise Refusal(DRAINING, "this gateway is shutting down")
        if time.monotonic() - self._checked_at >= self._gateway.settings.ready_cache_s:
            if self._checking is None or self._checking.done():  # several callers share one check
                self._checking = asyncio.ensure_future(self._check())
            await asyncio.shield(self._checking)
        if self._failure is not None:
            raise self._failure
        return json_response({"status": "ready"})

    async def metrics(self, request: Request) -> Response:  # noqa: ARG002
        """`GET /metrics`."""
        return Response(self._gateway.metrics.exposition(), media_type=CONTENT_TYPE)

    async def openapi(self, request: Request) -> Response:  # noqa: ARG002
        """`GET /openapi.json`."""
        return Response(self._document, media_type="application/json")

    async def _check(self) -> None:
        directory = self._gateway.directory
        timeout_s = min(_READY_TIMEOUT_S, self._gateway.settings.timeout_s)
        failure = None
        try:
            models = await directory.all()
            if not models:
                failure = Refusal(UNAVAILABLE, "the server has no model that is ready")
            for model in models:
                await self._probe(model.name, timeout_s)
        except Refusal as refusal:
            failure = refusal
        except LasttokenError as error:
            told = refusal_of(error)
            failure = Refusal(UNAVAILABLE, str(told), cause=told.cause)
        self._failure = failure
        self._checked_at = time.monotonic()

    async def _probe(self, model: str, timeout_s: float) -> None:
        # Busy is ready: else an overload would take every gateway out of its Service, and callers
        # would find nobody who tells them to come back later.
        for priority in PROBE_CLASSES:
            job = EmbedJob(inputs=["ready?"], model=model, priority=priority)
            exchange = Exchange(request_id="ready")
            try:
                await embed(job, self._gateway.directory, exchange, timeout_s=timeout_s)
            except LasttokenError as error:
                if priority == "probe" and is_unknown_class(error):
                    continue
                if not is_only_busy(error):
                    raise
            return


def guarded(path: str, handler: Handler) -> Handler:
    """A handler whose refusals become answers; `path` names it in logs and metrics."""

    async def answer(request: Request) -> Response:
        exchange = exchange_of(request)
        exchange.route = path
        try:
            return await handler(request)
        except Refusal as refusal:
            told = refusal
        except LasttokenError as error:
            told = refusal_of(error)
        exchange.error, exchange.cause = told.kind.code, told.cause
        return error_response(told)

    return answer

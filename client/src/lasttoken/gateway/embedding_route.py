"""The one route behind all dialects: access, limits, body, job, answer."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from lasttoken.errors import LasttokenError, RequestCancelled
from lasttoken.gateway.dialect import Dialect
from lasttoken.gateway.embedding_core import EmbedJob, embed
from lasttoken.gateway.exchange import (
    CallerGone,
    Exchange,
    JsonPieces,
    NoAnswer,
    exchange_of,
    read_body,
    while_connected,
)
from lasttoken.gateway.gateway_state import Gateway
from lasttoken.gateway.openai_shapes import error_response
from lasttoken.gateway.refusals import (
    OVERLOADED,
    TOO_MANY_TEXTS,
    Refusal,
    invalid,
    refusal_of,
)

_FIELD = re.compile(r"at `\$\.(\w+)")
_ESCAPES = re.compile(
    rb"(?:\\(?!u(?i:d[89a-f])).[^\\]*){1,4096}|"
    rb"\\u(?i:d[89ab][0-9a-f]{2})\\u(?i:d[c-f][0-9a-f]{2})|(\\u(?i:d[89a-f][0-9a-f]{2}))|\\.",
    re.DOTALL,
)
"""Escapes of a JSON text: a run of those that are no surrogates, for a text is full of them and the
event loop waits; a pair of surrogates, half of one (as the group), any other."""


class EmbeddingRoute:
    """Answers the requests of one dialect."""

    def __init__(self, gateway: Gateway, dialect: Dialect) -> None:
        """Serve a dialect from a gateway."""
        self._gateway = gateway
        self._dialect = dialect
        self._decoder = msgspec.json.Decoder(dialect.payload)

    async def __call__(self, request: Request) -> Response:
        """Answer one request."""
        exchange = exchange_of(request)
        exchange.route = self._dialect.path
        metrics = self._gateway.metrics
        try:
            if self._gateway.in_flight >= self._gateway.settings.max_in_flight:
                raise Refusal(OVERLOADED, "this gateway has all the work it takes; try again soon")
            self._gateway.in_flight += 1
            metrics.in_flight.inc()
            try:
                return await self._answer(request, exchange)
            finally:
                self._gateway.in_flight -= 1
                metrics.in_flight.dec()
        except asyncio.CancelledError:
            if not self._gateway.draining:
                raise
            # A second Ctrl-C, or a request longer than the time for draining: this task ends here
            # all the same, and its caller is told that another gateway may be asked.
            return self._refused(refusal_of(RequestCancelled("the gateway ends")), exchange)
        except CallerGone:
            metrics.disconnects.inc()
            exchange.error = "disconnected"
            return NoAnswer()
        except Refusal as refusal:
            return self._refused(refusal, exchange)
        except LasttokenError as error:
            told = refusal_of(error)
            if not told.kind.blames_caller:
                metrics.upstream_errors.labels(type(error).__name__).inc()
            return self._refused(told, exchange)

    async def _answer(self, request: Request, exchange: Exchange) -> Response:
        gateway = self._gateway
        key = gateway.access.caller(request, exchange)
        gateway.access.admit_request(key, exchange)
        body = await read_body(
            request,
            limit=gateway.settings.max_body_bytes,
            timeout_s=gateway.settings.body_timeout_s,
        )
        payload = self._decoded(body)
        job: EmbedJob = self._dialect.job(payload)
        exchange.texts = len(job.inputs)
        if len(job.inputs) > gateway.settings.max_texts:
            raise Refusal(
                TOO_MANY_TEXTS,
                f"the request has {len(job.inputs)} texts; send at most "
                f"{gateway.settings.max_texts} in one",
            )
        gateway.access.admit_texts(key, len(job.inputs), exchange)
        work = embed(job, gateway.directory, exchange, timeout_s=gateway.settings.timeout_s)
        embedded = await while_connected(request, work)
        exchange.tokens = embedded.tokens
        gateway.access.charge_tokens(key, embedded.tokens, exchange)
        gateway.metrics.texts.labels(embedded.model.name).inc(len(job.inputs))
        gateway.metrics.tokens.labels(embedded.model.name).inc(embedded.tokens)
        cut = int(embedded.truncated.sum())
        gateway.metrics.truncated.labels(embedded.model.name).inc(cut)  # 0 too: it shall be there
        return JsonPieces(self._dialect.answer(payload, embedded, exchange))

    def _decoded(self, body: bytes) -> Any:
        try:
            return self._decoder.decode(body)
        except msgspec.ValidationError as error:
            field = _FIELD.search(str(error))
            raise invalid(str(error), param=field[1] if field else None) from None
        except RecursionError:
            raise invalid("the request is nested too deep; send flat fields") from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            half = next(filter(None, (escape[1] for escape in _ESCAPES.finditer(body))), None)
            if half is not None:  # the decoder's own words are of truncated data
                raise invalid(
                    f"the request holds {half.decode()}, an unpaired surrogate and no character; "
                    "send both halves of the pair, or leave it out"
                ) from None
            raise invalid(f"the request is not JSON: {error}") from None

    def _refused(self, refusal: Refusal, exchange: Exchange) -> Response:
        exchange.error, exchange.cause = refusal.kind.code, refusal.cause
        return error_response(refusal, self._dialect.error(refusal, exchange))

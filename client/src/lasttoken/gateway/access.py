"""Who may call, and how much: API keys and rate limits."""

from __future__ import annotations

import time

from starlette.requests import Request

from lasttoken.errors import InvalidInput
from lasttoken.gateway.exchange import Exchange
from lasttoken.gateway.gateway_metrics import GatewayMetrics
from lasttoken.gateway.json_log import log_event
from lasttoken.gateway.keys import ApiKey, KeyRing
from lasttoken.gateway.limits import Exceeded, RateLimiter
from lasttoken.gateway.refusals import NO_KEY, RATE_LIMITED, Refusal
from lasttoken.gateway.settings import GatewaySettings

_REFRESH_S = 1.0


class Access:
    """Checks callers against the keys and their limits."""

    def __init__(self, settings: GatewaySettings, metrics: GatewayMetrics) -> None:
        """Read the keys.

        Raises:
            InvalidInput: They are not valid.
        """
        self._ring = KeyRing(file=settings.key_file, direct=settings.keys)
        self._limiter = RateLimiter()
        self._metrics = metrics
        self._looked_at = time.monotonic()
        metrics.valid_keys(self._ring.keys)

    @property
    def open_to_all(self) -> bool:
        """Whether nobody needs a key."""
        return not self._ring.required

    def caller(self, request: Request, exchange: Exchange) -> ApiKey | None:
        """Who calls; None where nobody needs a key.

        Raises:
            Refusal: 401: no key, or none that is valid.
        """
        if not self._ring.required:
            return None
        self._refresh()
        scheme, _, presented = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not presented:
            raise Refusal(
                NO_KEY, "this gateway wants an API key; send the header 'Authorization: Bearer KEY'"
            )
        key = self._ring.find(presented.strip())
        if key is None:
            raise Refusal(NO_KEY, "the API key is not valid; ask this gateway's operator for one")
        exchange.key = key.name
        return key

    def admit_request(self, key: ApiKey | None, exchange: Exchange) -> None:
        """Count a request.

        Raises:
            Refusal: 429: one of the key's limits is reached.
        """
        if key is not None:
            exceeded = self._limiter.admit_request(key)
            self._settle(key, exceeded, exchange)

    def admit_texts(self, key: ApiKey | None, texts: int, exchange: Exchange) -> None:
        """Count its texts.

        Raises:
            Refusal: 429: the key's limit of texts is reached.
        """
        if key is not None:
            exceeded = self._limiter.admit_texts(key, texts)
            self._settle(key, exceeded, exchange)

    def charge_tokens(self, key: ApiKey | None, tokens: int, exchange: Exchange) -> None:
        """Count its tokens, which are known by now."""
        if key is not None:
            self._limiter.charge_tokens(key, tokens)
            exchange.headers.update(self._limiter.headers(key))

    def _settle(self, key: ApiKey, exceeded: Exceeded | None, exchange: Exchange) -> None:
        if exceeded is None:
            return
        exchange.headers.update(self._limiter.headers(key))
        self._metrics.rate_limited.labels(key.name, exceeded.kind).inc()
        raise Refusal(
            RATE_LIMITED,
            f"the key {key.name!r} may use {exceeded.per_minute} {exceeded.kind} a minute; try "
            f"again in {exceeded.retry_after_s} s",
            retry_after_s=exceeded.retry_after_s,
        )

    def _refresh(self) -> None:
        now = time.monotonic()
        if now - self._looked_at < _REFRESH_S:
            return
        self._looked_at = now
        try:
            if self._ring.refresh():
                self._metrics.key_reloads.labels("ok").inc()
                self._metrics.valid_keys(self._ring.keys)
                log_event("keys_reloaded", keys=list(self._ring.names))
        except InvalidInput as error:
            self._metrics.key_reloads.labels("failed").inc()
            log_event("keys_not_reloaded", level="error", reason=str(error))

"""Rate limits: a bucket for each key and kind, filled at an even rate."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from lasttoken.gateway.keys import ApiKey

KINDS = ("requests", "texts", "tokens")


class Bucket:
    """A token bucket that holds one minute's worth and may be overdrawn.

    A cost above what the bucket can ever hold is admitted when it is full, and what it overdraws
    has to be filled up first. So a large request is not refused for good, and over time the rate
    holds all the same.

    Source: https://en.wikipedia.org/wiki/Token_bucket
    """

    def __init__(self, per_minute: int, now: float) -> None:
        """Make a full bucket."""
        self.per_minute = per_minute
        self._level = float(per_minute)
        self._filled_at = now

    def level(self, now: float) -> float:
        """What it holds; below 0 when overdrawn."""
        elapsed = max(0.0, now - self._filled_at)
        return min(float(self.per_minute), self._level + elapsed * self.per_minute / 60.0)

    def wait_s(self, cost: float, now: float) -> float:
        """Seconds until a cost is admitted; 0 when it is now."""
        missing = min(cost, self.per_minute) - self.level(now)
        return max(0.0, missing * 60.0 / self.per_minute)

    def take(self, cost: float, now: float) -> None:
        """Take a cost, whether it is there or not."""
        self._level = self.level(now) - cost
        self._filled_at = now


@dataclass(frozen=True, slots=True, kw_only=True)
class Exceeded:
    """A limit is reached.

    Attributes:
        kind: `requests`, `texts` or `tokens`.
        per_minute: The limit.
        retry_after_s: Whole seconds after which the same request is admitted.
    """

    kind: str
    per_minute: int
    retry_after_s: int


class RateLimiter:
    """The buckets of all keys.

    Requests and texts are taken before the work. How many tokens a text has is known only after
    it, so a request is admitted while the bucket of tokens is not empty, and takes what it used.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Make a limiter on that clock, in seconds."""
        self._clock = clock
        self._buckets: dict[tuple[str, str], Bucket] = {}

    def admit_request(self, key: ApiKey) -> Exceeded | None:
        """Take one request, or say which limit forbids it; then nothing is taken.

        Args:
            key: The caller's.
        """
        return self._exceeded(key, "tokens", 1) or self._take(key, "requests", 1)

    def admit_texts(self, key: ApiKey, texts: int) -> Exceeded | None:
        """Take so many texts, or say that the limit forbids it; then nothing is taken."""
        return self._take(key, "texts", texts)

    def charge_tokens(self, key: ApiKey, tokens: int) -> None:
        """Take the tokens that a request turned out to have."""
        now = self._clock()
        if (bucket := self._bucket(key, "tokens", now)) is not None:
            bucket.take(tokens, now)

    def headers(self, key: ApiKey) -> dict[str, str]:
        """OpenAI's `x-ratelimit-` headers for the limits that the key has."""
        now = self._clock()
        headers = {}
        for kind in KINDS:
            if (bucket := self._bucket(key, kind, now)) is not None:
                level = bucket.level(now)
                full_in_s = (bucket.per_minute - level) * 60.0 / bucket.per_minute
                headers[f"x-ratelimit-limit-{kind}"] = str(bucket.per_minute)
                headers[f"x-ratelimit-remaining-{kind}"] = str(max(0, int(level)))
                headers[f"x-ratelimit-reset-{kind}"] = f"{full_in_s:.3f}s"
        return headers

    def _take(self, key: ApiKey, kind: str, cost: float) -> Exceeded | None:
        exceeded = self._exceeded(key, kind, cost)
        if exceeded is None and (bucket := self._bucket(key, kind, now := self._clock())):
            bucket.take(cost, now)
        return exceeded

    def _exceeded(self, key: ApiKey, kind: str, cost: float) -> Exceeded | None:
        now = self._clock()
        bucket = self._bucket(key, kind, now)
        if bucket is None or (wait_s := bucket.wait_s(cost, now)) <= 0:
            return None
        return Exceeded(
            kind=kind, per_minute=bucket.per_minute, retry_after_s=max(1, math.ceil(wait_s))
        )

    def _bucket(self, key: ApiKey, kind: str, now: float) -> Bucket | None:
        per_minute: int | None = getattr(key, kind)
        if per_minute is None:
            return None
        bucket = self._buckets.get((key.name, kind))
        if bucket is None or bucket.per_minute != per_minute:  # a changed limit starts afresh
            bucket = self._buckets[key.name, kind] = Bucket(per_minute, now)
        return bucket

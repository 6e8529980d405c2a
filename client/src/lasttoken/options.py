"""Settings of the clients, validated where they are made."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from lasttoken.addresses import check_addresses
from lasttoken.errors import InvalidInput
from lasttoken.security import KeepAlive, Tls, Token, check_headers, check_token

OnTruncation = Literal["warn", "ignore", "error"]
Priority = Literal["interactive", "bulk", "probe"]
"""Classes of the encoder's queue; `"probe"` is for health checks: one short text, past all else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """When a request that the server could not take is sent again.

    The wait before attempt k+1 is drawn evenly from 0 to `initial_s * multiplier ** (k - 1)`,
    capped at `max_s`: exponential backoff with full jitter. No wait reaches past the deadline of
    the call.

    Source: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/

    Attributes:
        initial_s: Longest wait before the second attempt, in seconds.
        max_s: Longest wait before any attempt, in seconds.
        multiplier: Growth of the longest wait from one attempt to the next.
        max_attempts: Attempts in all; None leaves it to the deadline; 1 never retries.
    """

    initial_s: float = 0.05
    max_s: float = 2.0
    multiplier: float = 2.0
    max_attempts: int | None = None

    def __post_init__(self) -> None:
        for name in ("initial_s", "max_s"):
            value = getattr(self, name)
            if not (_is_finite(value) and value > 0):
                raise InvalidInput(f"RetryPolicy.{name} is {value!r}; it must be positive")
        if not (_is_finite(self.multiplier) and self.multiplier >= 1):
            raise InvalidInput(f"RetryPolicy.multiplier is {self.multiplier!r}; it must be >= 1")
        attempts = self.max_attempts
        whole = isinstance(attempts, int) and not isinstance(attempts, bool)
        if attempts is not None and not (whole and attempts >= 1):
            raise InvalidInput(
                f"RetryPolicy.max_attempts is {attempts!r}; it must be a whole number above 0, or "
                "None"
            )

    def longest_wait_s(self, attempts: int) -> float:
        """Upper end of the wait after so many attempts (at least 1), in seconds."""
        try:
            return min(self.max_s, self.initial_s * self.multiplier ** (attempts - 1))
        except OverflowError:
            return self.max_s


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientOptions:
    """Everything that a client is told when it is made.

    Attributes:
        url: `host:port` of Triton's gRPC service, or several of them (a list, or separated by
            commas) that take turns; the port defaults to 8001.
        model: Triton's name of the ensemble.
        max_texts_per_request: Longer lists are split into requests of at most so many texts, and
            of no more than the 256 that a model takes.
        max_in_flight: Most requests of one call that are with the server at a time; how many
            they are is found out, starting with a few.
        on_truncation: What `embed` does when a text was too long and the server cut it: `"warn"`,
            `"ignore"` or `"error"`.
        retry: When a refused request is sent again.
        tls: How the connection is encrypted; None: it is not.
        token: Bearer token, or a function that returns the current one.
        headers: gRPC metadata that goes with every call.
        keepalive: Pings on the connection; None for none.
    """

    url: str | Sequence[str] = "127.0.0.1:8001"
    model: str = "sfr_embedding_mistral"
    max_texts_per_request: int = 64
    max_in_flight: int = 32
    on_truncation: OnTruncation = "warn"
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    tls: Tls | None = None
    token: Token | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    keepalive: KeepAlive | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "url", ",".join(check_addresses(self.url)))
        model: object = self.model
        if not isinstance(model, str) or not model:
            raise InvalidInput(f"model is {self.model!r}; it must be the name of a Triton ensemble")
        for name in ("max_texts_per_request", "max_in_flight"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise InvalidInput(f"{name} is {value!r}; it must be a whole number above 0")
        for name, kind in (("retry", RetryPolicy), ("tls", Tls), ("keepalive", KeepAlive)):
            value = getattr(self, name)
            if not isinstance(value, kind) and not (value is None and name != "retry"):
                raise InvalidInput(
                    f"{name} is {value!r}; give a lasttoken.{kind.__name__}, such as "
                    f"{kind.__name__}()"
                )
        if self.on_truncation not in ("warn", "ignore", "error"):
            raise InvalidInput(
                f"on_truncation is {self.on_truncation!r}; use 'warn', 'ignore' or 'error'"
            )
        check_token(self.token)
        headers = check_headers(self.headers)
        if self.token is not None and "authorization" in headers:
            raise InvalidInput("both token and the header 'authorization' are given; give one")
        object.__setattr__(self, "headers", MappingProxyType(headers))

    @property
    def addresses(self) -> tuple[str, ...]:
        """One gRPC target for each server named by `url`."""
        return tuple(str(self.url).split(","))


def _is_finite(value: object) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and math.isfinite(value)  # type: ignore[arg-type]

"""Settings of the gateway, validated where they are made."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from lasttoken.errors import InvalidInput
from lasttoken.security import Tls, Token


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySettings:
    """What the application is told when it is made.

    Attributes:
        url: `host:port` of Triton's gRPC service, or several separated by commas: requests take
            turns.
        tls: How the connection to Triton is encrypted; None: it is not.
        token: Bearer token for Triton, or a function that returns the current one.
        default_model: Model of requests that name none; None: the only one that is served.
        aliases: Other names of models, such as `{"text-embedding-3-small": "bge_m3"}`.
        key_file: File of API keys; read again when it changes. None: none.
        keys: API keys in the same form, given directly; None: none. With neither nobody needs one.
        timeout_s: Time for one request, in seconds.
        body_timeout_s: Time for a request's head, and for its body, to come in, in seconds; a
            slower caller would keep its place among `max_in_flight` for as long as it likes. Also
            for each piece of an answer to be taken, which would keep its memory.
        max_body_bytes: Largest request.
        max_texts: Most texts of a request.
        max_in_flight: Most requests that are worked on at a time.
        drain_delay_s: Time between SIGTERM, from which on `/ready` says no, and the closing of the
            port, in seconds.
        drain_timeout_s: Time that requests in flight get to finish after that, in seconds.
        ready_cache_s: How long the outcome of a readiness inference holds, in seconds.
        otlp_endpoint: Where spans go, by OTLP over HTTP, such as `http://collector:4318`; None: no
            traces.
    """

    url: str = "127.0.0.1:8001"
    tls: Tls | None = None
    token: Token | None = field(default=None, repr=False)
    default_model: str | None = None
    aliases: Mapping[str, str] = field(default_factory=dict)
    key_file: Path | None = None
    keys: str | None = field(default=None, repr=False)
    timeout_s: float = 60.0
    body_timeout_s: float = 30.0
    max_body_bytes: int = 16 * 1024 * 1024
    max_texts: int = 2048
    max_in_flight: int = 512
    drain_delay_s: float = 0.0
    drain_timeout_s: float = 30.0
    ready_cache_s: float = 5.0
    otlp_endpoint: str | None = None

    def __post_init__(self) -> None:
        for name in ("max_body_bytes", "max_texts", "max_in_flight"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise InvalidInput(f"{name} is {value!r}; it must be a whole number above 0")
        for name in ("timeout_s", "body_timeout_s"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise InvalidInput(f"{name} is {value!r}; it must be positive")
        for name in ("drain_delay_s", "drain_timeout_s", "ready_cache_s"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise InvalidInput(f"{name} is {value!r}; it must not be negative")
        for alias, model in self.aliases.items():
            if not alias or not model:
                raise InvalidInput(f"alias {alias!r} of {model!r}; neither name may be empty")
        object.__setattr__(self, "aliases", MappingProxyType(dict(self.aliases)))

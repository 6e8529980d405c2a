"""What a caller is told when there is no vector: a status, a type, a code, a message.

Every error of `lasttoken.errors` has one entry here; a test enumerates them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import lasttoken.errors as errors


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """How an error looks over HTTP.

    Attributes:
        status: The HTTP status.
        type: OpenAI's `error.type`.
        code: OpenAI's `error.code`; stable, for programs.
        retry_after_s: Value of Retry-After, in seconds; None for no such header.
        blames_caller: Whether the message is about the caller's request and may be shown; of the
            others it says only what went wrong, not on which machine.
    """

    status: int
    type: str
    code: str
    retry_after_s: int | None = None
    blames_caller: bool = False


INVALID = Kind(status=400, type="invalid_request_error", code="invalid_value", blames_caller=True)
NO_KEY = Kind(status=401, type="authentication_error", code="invalid_api_key", blames_caller=True)
NOT_FOUND = Kind(
    status=404, type="invalid_request_error", code="model_not_found", blames_caller=True
)
NO_ROUTE = Kind(status=404, type="invalid_request_error", code="unknown_url", blames_caller=True)
NO_METHOD = Kind(
    status=405, type="invalid_request_error", code="method_not_allowed", blames_caller=True
)
TOO_SLOW = Kind(
    status=408, type="invalid_request_error", code="request_timeout", blames_caller=True
)
TOO_LARGE = Kind(
    status=413, type="invalid_request_error", code="request_too_large", blames_caller=True
)
TEXT_TOO_LONG = Kind(
    status=413, type="invalid_request_error", code="context_length_exceeded", blames_caller=True
)
TOO_MANY_TEXTS = Kind(
    status=422, type="invalid_request_error", code="too_many_texts", blames_caller=True
)
RATE_LIMITED = Kind(
    status=429, type="rate_limit_error", code="rate_limit_exceeded", blames_caller=True
)
OVERLOADED = Kind(status=503, type="server_error", code="overloaded", retry_after_s=1)
UNAVAILABLE = Kind(status=503, type="server_error", code="unavailable", retry_after_s=5)
DRAINING = Kind(status=503, type="server_error", code="shutting_down", retry_after_s=1)
TOO_LATE = Kind(status=504, type="server_error", code="timeout")
UPSTREAM = Kind(status=502, type="server_error", code="upstream_error")
INTERNAL = Kind(status=500, type="server_error", code="internal_error")

KIND_OF_ERROR: Mapping[type[errors.LasttokenError], Kind] = {
    errors.LasttokenError: INTERNAL,
    errors.InvalidInput: INVALID,
    errors.InputTooLong: TEXT_TOO_LONG,
    errors.ModelNotFound: NOT_FOUND,
    errors.ModelUnavailable: UNAVAILABLE,
    errors.ServerOverloaded: OVERLOADED,
    errors.DeadlineExceeded: TOO_LATE,
    errors.RequestCancelled: DRAINING,  # by the closing of our own connection: we are stopping
    # The gateway's own credentials; the caller can do nothing about them.
    errors.AuthenticationFailed: UPSTREAM,
    errors.PermissionRefused: UPSTREAM,
    errors.TlsFailed: UPSTREAM,
    errors.ProtocolMismatch: UPSTREAM,
    errors.ServerError: UPSTREAM,
    # The gateway starts no Triton.
    errors.LocalServerError: INTERNAL,
    errors.UnsupportedPlatform: INTERNAL,
    errors.InstallationFailed: INTERNAL,
    errors.RepositoryInvalid: INTERNAL,
    errors.ServerStartFailed: INTERNAL,
    errors.ServerStopped: INTERNAL,
}

_WORDS = {
    OVERLOADED: "the server's queue is full; try again in a moment",
    UNAVAILABLE: "the model is not available at the moment; try again later",
    DRAINING: "this gateway is shutting down; try another one",
    TOO_LATE: "the answer did not come within the time for a request; send fewer texts",
    UPSTREAM: "the server behind this gateway failed on the request; its operator can read why in "
    "the log",
    INTERNAL: "the gateway failed on the request; its operator can read why in the log",
}


class Refusal(Exception):
    """A request is answered with an error.

    Attributes:
        kind: Status, type and code.
        param: The field of the request that is meant, or None.
        retry_after_s: Seconds after which it is worth another try, or None.
        cause: Name of the error behind it, for the log, or None.
    """

    def __init__(
        self,
        kind: Kind,
        message: str,
        *,
        param: str | None = None,
        retry_after_s: int | None = None,
        cause: str | None = None,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.param = param
        self.retry_after_s = kind.retry_after_s if retry_after_s is None else retry_after_s
        self.cause = cause

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the answer: Retry-After, the challenge of a 401, the end of a connection."""
        headers = {}
        if self.retry_after_s is not None:
            headers["retry-after"] = str(self.retry_after_s)
        if self.kind is TOO_SLOW:
            headers["connection"] = "close"  # what is still to come is not waited for
        if self.kind is NO_KEY:
            headers["www-authenticate"] = "Bearer"
        return headers


def invalid(message: str, *, param: str | None = None) -> Refusal:
    """A 400 about one field of the request."""
    return Refusal(INVALID, message, param=param)


def refusal_of(error: errors.LasttokenError) -> Refusal:
    """Turn an error of the client library into what a caller over HTTP is told.

    What is not about the caller's own request is told in general words: addresses and messages of
    the inside are for the operator's log.
    """
    kind = KIND_OF_ERROR[type(error)]
    message = str(error) if kind.blames_caller else _WORDS[kind]
    cause = type(error).__name__ + (f" {error.status}" if error.status else "")
    return Refusal(kind, message, cause=cause)

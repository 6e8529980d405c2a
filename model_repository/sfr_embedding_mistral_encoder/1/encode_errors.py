"""Why a request of the encoder was not answered with vectors.

    EncodeError
    ├── InvalidRows          the tensors do not describe rows of tokens
    ├── Overloaded           the queue is full; try again later
    ├── ShuttingDown         the server is stopping; try another one
    ├── DeadlineExpired      the caller's deadline passed while the request waited
    ├── RequestCancelled     the caller gave the request up
    └── EngineFailed         the runtime failed on this request's rows

Each leaf names the Triton status code it is answered with (an attribute of ``TritonError``) and the
``reason`` under which it is counted.
"""

from __future__ import annotations

from typing import ClassVar


class EncodeError(Exception):
    """Base of the tree."""

    code: ClassVar[str] = "INTERNAL"
    reason: ClassVar[str] = "internal"


class InvalidRows(EncodeError):
    """The tensors do not describe rows of tokens."""

    code = "INVALID_ARG"
    reason = "invalid"


class Overloaded(EncodeError):
    """The queue is full."""

    code = "UNAVAILABLE"
    reason = "overloaded"


class ShuttingDown(EncodeError):
    """The server is stopping."""

    code = "UNAVAILABLE"
    reason = "shutting_down"


class DeadlineExpired(EncodeError):
    """The caller's deadline passed before the request was computed."""

    # The Python backend has no DEADLINE_EXCEEDED; clients tell this one by its first words.
    code = "UNAVAILABLE"
    reason = "expired"


class RequestCancelled(EncodeError):
    """The caller gave the request up."""

    code = "CANCELLED"
    reason = "cancelled"


class EngineFailed(EncodeError):
    """The runtime failed, or returned something that is not a vector, for this request's rows."""

    code = "INTERNAL"
    reason = "engine_failed"

"""From what gRPC and Triton say to the one error that lasttoken raises.

The status decides; for the few statuses that Triton uses for several things, the beginning of the
message decides further. An ensemble puts "in ensemble '<name>', " before a step's message.
"""

from __future__ import annotations

import re

import grpc
from tritonclient.utils import InferenceServerException

from lasttoken.errors import (
    AuthenticationFailed,
    DeadlineExceeded,
    InputTooLong,
    InvalidInput,
    LasttokenError,
    ModelNotFound,
    ModelUnavailable,
    PermissionRefused,
    ProtocolMismatch,
    RequestCancelled,
    ServerError,
    ServerOverloaded,
    TlsFailed,
)

ERROR_OF_STATUS: dict[grpc.StatusCode, type[LasttokenError]] = {
    grpc.StatusCode.OK: ProtocolMismatch,  # an error that claims to be none
    grpc.StatusCode.CANCELLED: RequestCancelled,
    grpc.StatusCode.UNKNOWN: ServerError,
    grpc.StatusCode.INVALID_ARGUMENT: InvalidInput,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.NOT_FOUND: ModelNotFound,
    grpc.StatusCode.ALREADY_EXISTS: ServerError,
    grpc.StatusCode.PERMISSION_DENIED: PermissionRefused,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ServerOverloaded,
    grpc.StatusCode.FAILED_PRECONDITION: ModelUnavailable,
    grpc.StatusCode.ABORTED: ServerError,
    grpc.StatusCode.OUT_OF_RANGE: InvalidInput,
    grpc.StatusCode.UNIMPLEMENTED: ProtocolMismatch,
    grpc.StatusCode.INTERNAL: ServerError,
    grpc.StatusCode.UNAVAILABLE: ModelUnavailable,
    grpc.StatusCode.DATA_LOSS: ServerError,
    grpc.StatusCode.UNAUTHENTICATED: AuthenticationFailed,
}

_REFINEMENTS: tuple[tuple[grpc.StatusCode, re.Pattern[str], type[LasttokenError]], ...] = (
    # The scheduler's own refusals; a Python model has no code for an expired deadline.
    (grpc.StatusCode.UNAVAILABLE, re.compile(r"(^|, )overloaded:"), ServerOverloaded),
    (grpc.StatusCode.UNAVAILABLE, re.compile(r"(^|, )deadline exceeded:"), DeadlineExceeded),
    # gRPC's words for a handshake that cannot succeed; any lost connection is UNAVAILABLE.
    (
        grpc.StatusCode.UNAVAILABLE,
        re.compile(r"CERTIFICATE|WRONG_VERSION_NUMBER|Hostname Verification Check failed"),
        TlsFailed,
    ),
    # Triton answers UNAVAILABLE for a version that is not there, or a model that never was.
    (grpc.StatusCode.UNAVAILABLE, re.compile(r"^Request for unknown model"), ModelNotFound),
    # A stopping server resets the streams of calls that nobody there has taken yet; a call that is
    # cancelled here has other words (https://github.com/grpc/grpc/issues/41785).
    (grpc.StatusCode.CANCELLED, re.compile(r"^CANCELLED$"), ModelUnavailable),
    # A stopping server has unloaded its models while others still ask it for them.
    (grpc.StatusCode.NOT_FOUND, re.compile(r"has no available versions"), ModelUnavailable),
    # gRPC's word for a message beyond the receiver's limit.
    (grpc.StatusCode.RESOURCE_EXHAUSTED, re.compile(r"larger than max"), InputTooLong),
    # The tokenizer step's and the scheduler's refusals of what is too much for them.
    (grpc.StatusCode.INVALID_ARGUMENT, re.compile(r"shorten or split|fewer texts"), InputTooLong),
)

# What a plain connection to a TLS server looks like from here, a missing certificate, and a server
# that speaks something else than gRPC.
_CLOSED_AT_ONCE = re.compile(r"connections to all backends failing.*Socket closed")

_STATUS_OF_NAME = {str(status): status for status in grpc.StatusCode}


def error_of_status(status: grpc.StatusCode, message: str, *, asked: str) -> LasttokenError:
    """Make the error that stands for a gRPC status.

    Args:
        status: The status of the failed call.
        message: Its details, as the server or gRPC wrote them.
        asked: Who was asked, for the message: a model's name, or a server's address.
    """
    kind = ERROR_OF_STATUS[status]
    for refined_status, pattern, refined in _REFINEMENTS:
        if status is refined_status and pattern.search(message):
            kind = refined
    if _CLOSED_AT_ONCE.search(message):
        message += (
            "; it closes every connection: is this the gRPC port (Triton's: 8001, its HTTP port is "
            "8000), and does it want TLS, or a client's certificate?"
        )
    if kind is ModelNotFound and "unknown model" in message:
        message += "; list_models(), or `lasttoken models`, says what is served"
    return kind(f"{asked}: {message or 'no details'} ({status.name})", status=status.name)


def error_of_triton(error: BaseException, *, asked: str) -> LasttokenError:
    """Make the error that stands for one of tritonclient's.

    Args:
        error: What tritonclient raised or handed to a callback.
        asked: Who was asked, for the message: a model's name, or a server's address.

    Raises:
        BaseException: `error` itself, when it is not tritonclient's.
    """
    if not isinstance(error, InferenceServerException):
        raise error
    status = _STATUS_OF_NAME.get(str(error.status()))
    message = str(error.message() or "")
    if status is None:  # raised by tritonclient itself, while it read the answer
        return ProtocolMismatch(f"{asked}: {message}")
    return error_of_status(status, message, asked=asked)

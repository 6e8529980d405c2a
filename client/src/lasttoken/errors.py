"""Every error that lasttoken raises on purpose.

::

    LasttokenError
    ├── InvalidInput (also a ValueError)   the call itself is wrong; repeating it cannot help
    │   └── InputTooLong                   a text or a request is beyond the server's limits
    ├── ModelNotFound                      the server has no model of that name
    ├── ModelUnavailable                   nobody answers there, or the model is not ready
    │   └── ServerOverloaded               the server's queue is full; try again later
    ├── DeadlineExceeded (also a TimeoutError)   the time that the caller gave is over
    ├── RequestCancelled                   the call was cancelled
    ├── AuthenticationFailed               no credentials, or wrong ones
    ├── TlsFailed                          no trusted connection: a certificate is wrong or missing
    ├── PermissionRefused                  known caller, forbidden operation
    ├── ProtocolMismatch                   the answer is not what this client understands
    ├── ServerError                        the server failed on a good request
    └── LocalServerError                   the Triton server of this machine (lasttoken.local)
        ├── UnsupportedPlatform            no Triton build for this system or Python
        ├── InstallationFailed             Triton or its Python environment could not be installed
        ├── RepositoryInvalid              not a Triton model repository
        ├── ServerStartFailed              the server ended, or did not become ready in time
        └── ServerStopped                  the server ended while it was in use

`TruncationWarning` is a warning: the text was embedded, but not to its end.
"""

from __future__ import annotations


class LasttokenError(Exception):
    """Base of every error that lasttoken raises on purpose.

    Attributes:
        status: Name of the gRPC status behind the error, such as `"UNAVAILABLE"`, or None when the
            error arose on this side of the wire.
    """

    status: str | None

    def __init__(self, message: str, *, status: str | None = None) -> None:
        super().__init__(message)
        self.status = status


class InvalidInput(LasttokenError, ValueError):
    """The call is wrong: an argument of a wrong type or value, or one that the server refused."""


class InputTooLong(InvalidInput):
    """A text, or a request as a whole, is beyond the limits of the server."""


class ModelNotFound(LasttokenError):
    """The server knows no model of that name or version."""


class ModelUnavailable(LasttokenError):
    """Nobody answers at that address, or the model there is not ready."""


class ServerOverloaded(ModelUnavailable):
    """The server refused the request because its queue is full."""


class DeadlineExceeded(LasttokenError, TimeoutError):
    """The time that the caller gave is over."""


class RequestCancelled(LasttokenError):
    """The call was cancelled before its answer came."""


class AuthenticationFailed(LasttokenError):
    """The server wants credentials, or did not accept those that it got."""


class TlsFailed(LasttokenError):
    """No trusted connection: a certificate is missing, not trusted, expired or for another name."""


class PermissionRefused(LasttokenError):
    """The server knows the caller and forbids the operation."""


class ProtocolMismatch(LasttokenError):
    """The server's answer is not what this version of the client understands."""


class ServerError(LasttokenError):
    """The server failed on a request that was right."""


class LocalServerError(LasttokenError):
    """Base of the errors of the Triton server that runs on this machine."""


class UnsupportedPlatform(LocalServerError):
    """There is no Triton for this operating system, processor or Python interpreter."""


class InstallationFailed(LocalServerError):
    """Triton or its Python environment could not be fetched or installed."""


class RepositoryInvalid(LocalServerError):
    """The folder is not a Triton model repository that can be served."""


class ServerStartFailed(LocalServerError):
    """The server ended while starting, or did not become ready in time."""


class ServerStopped(LocalServerError):
    """The server ended while it was in use."""


class TruncationWarning(UserWarning):
    """A text was longer than the model's maximum; its vector stands for its beginning only."""

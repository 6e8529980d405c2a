"""TLS and keepalive of a connection, and the credentials that go with every call."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from lasttoken.errors import InvalidInput

Pem: TypeAlias = str | Path | bytes
"""A PEM file's path, or its contents."""
Token: TypeAlias = str | Callable[[], str]
"""A bearer token, or what returns the current one."""

_HEADER_NAME = re.compile(r"[0-9a-z_.-]+")
_HEADER_VALUE = re.compile(r"[\x20-\x7e]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """How a connection is encrypted and who proves to be who.

    `Tls()` trusts what gRPC trusts by default (its own list of public authorities, or the file that
    `GRPC_DEFAULT_SSL_ROOTS_FILE_PATH` names).

    Attributes:
        root_certificates: PEM of the authorities to trust instead.
        certificate_chain: PEM of this client's certificate, for a server that asks for one (mTLS).
        private_key: PEM of its key.
        server_name: The name that the server's certificate must have, when it is not the host's.
    """

    root_certificates: Pem | None = None
    certificate_chain: Pem | None = None
    private_key: Pem | None = field(default=None, repr=False)
    server_name: str | None = None

    def __post_init__(self) -> None:
        if (self.certificate_chain is None) != (self.private_key is None):
            raise InvalidInput(
                "Tls needs certificate_chain and private_key together, or neither of them"
            )
        for name in ("root_certificates", "certificate_chain", "private_key"):
            if getattr(self, name) is not None:
                self._read(name)  # now, and not at the first call

    def credentials(self) -> Any:
        """Make gRPC's `ChannelCredentials`; files are read now."""
        import grpc

        return grpc.ssl_channel_credentials(
            root_certificates=self._read("root_certificates"),
            private_key=self._read("private_key"),
            certificate_chain=self._read("certificate_chain"),
        )

    def _read(self, name: str) -> bytes | None:
        pem = getattr(self, name)
        if pem is None:
            return None
        try:
            content = pem if isinstance(pem, bytes) else Path(pem).read_bytes()
        except (OSError, TypeError) as error:
            raise InvalidInput(f"Tls.{name} cannot be read: {error}") from error
        if b"-----BEGIN" not in content:
            raise InvalidInput(f"Tls.{name} is not PEM: there is no '-----BEGIN' in it")
        return content


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepAlive:
    """Pings that find a dead connection, and keep one open through gateways that forget idle ones.

    A server may refuse clients that ping more often than it permits: gRPC's servers permit a ping
    every 5 minutes unless told otherwise (Triton:
    `--grpc-http2-min-recv-ping-interval-without-data`).

    Source: https://github.com/grpc/grpc/blob/master/doc/keepalive.md

    Attributes:
        interval_s: Time between pings, in seconds.
        timeout_s: A ping not answered for so long ends the connection, in seconds.
        without_calls: Also while no call is in flight.
    """

    interval_s: float = 300.0
    timeout_s: float = 20.0
    without_calls: bool = False

    def __post_init__(self) -> None:
        for name in ("interval_s", "timeout_s"):
            value = getattr(self, name)
            if not (isinstance(value, (int, float)) and math.isfinite(value) and value >= 0.001):
                raise InvalidInput(f"KeepAlive.{name} is {value!r}; give a positive number")


def check_token(token: object) -> None:
    """Check a bearer token.

    Raises:
        InvalidInput: Neither a string of visible ASCII nor a function; the token is not shown.
    """
    if token is None or callable(token):
        return
    if not isinstance(token, str) or not token.isascii() or not token.isprintable() or not token:
        raise InvalidInput(
            f"token is of type {type(token).__name__!r} or holds characters that a header cannot; "
            "give a string of visible ASCII, or a function that returns one"
        )


def check_headers(headers: object) -> dict[str, str]:
    """Check the gRPC metadata of every call.

    Returns:
        The same with names in lower case, as gRPC wants them.

    Raises:
        InvalidInput: Not a mapping of strings, or a name or value that gRPC cannot send; values
            are not shown, as they may be secret.

    Source: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md (Custom-Metadata).
    """
    if not isinstance(headers, Mapping):
        raise InvalidInput(
            f"headers are of type {type(headers).__name__!r}; give a mapping of names to values"
        )
    checked = {}
    for name, value in headers.items():
        if not isinstance(name, str) or not _HEADER_NAME.fullmatch(name.lower()):
            raise InvalidInput(
                f"the header {name!r} has no valid name; use letters, digits, '_', '-' and '.'"
            )
        if name.lower().endswith("-bin"):
            raise InvalidInput(f"the header {name!r} is binary by its name; only text can be sent")
        if not isinstance(value, str) or not _HEADER_VALUE.fullmatch(value):
            raise InvalidInput(
                f"the value of the header {name!r} is of type {type(value).__name__!r} or holds "
                "characters that a header cannot; give a string of visible ASCII and spaces"
            )
        checked[name.lower()] = value
    return checked

"""Where the servers are: from what the caller writes to the targets that gRPC connects to."""

from __future__ import annotations

from collections.abc import Sequence

from lasttoken.errors import InvalidInput

DEFAULT_PORT = 8001
_DNS = "dns:///"


def check_addresses(url: object) -> tuple[str, ...]:
    """Check one address or several and complete their ports.

    Args:
        url: `host:port`, several of them separated by commas, or a list of them. `dns:///host:port`
            has gRPC look the name up again when servers come and go, and use all its addresses.

    Returns:
        One gRPC target an address, each with a port, in the order given.

    Raises:
        InvalidInput: No address, one that is not a string, one with another scheme, or the same
            twice.
    """
    parts = url.split(",") if isinstance(url, str) else url
    if not isinstance(parts, Sequence) or isinstance(parts, (bytes, bytearray)) or not parts:
        raise InvalidInput(
            f"url is {url!r}; it must be host:port, such as '127.0.0.1:8001', or several of them"
        )
    addresses = tuple(_check_address(part, url) for part in parts)
    if len(set(addresses)) < len(addresses):
        raise InvalidInput(f"url is {url!r}; it names an address twice")
    return addresses


def _check_address(part: object, url: object) -> str:
    if not isinstance(part, str) or not part.strip():
        raise InvalidInput(f"url is {url!r}; it must be host:port, such as '127.0.0.1:8001'")
    part = part.strip()
    scheme = _DNS if part.startswith(_DNS) else ""
    host = part.removeprefix(scheme)
    if "://" in host or not host:
        raise InvalidInput(
            f"url is {url!r}; give host:port of Triton's gRPC service without a scheme, "
            "such as '127.0.0.1:8001' (only dns:///host:port is one of gRPC's own)"
        )
    has_port = "]:" in host if host.startswith("[") else ":" in host
    return f"{scheme}{host}" if has_port else f"{scheme}{host}:{DEFAULT_PORT}"

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
        InvalidInput: No address, one that is not a string, one with another scheme or a port that
            is none, or the same twice.
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
    name, port = _name_and_port(host)
    if not (port.isdecimal() and port.isascii() and 0 < int(port) < 2**16):
        raise InvalidInput(f"url is {url!r}; the port {port!r} is not a number from 1 to 65535")
    return f"{scheme}{name}:{port}"


def _name_and_port(host: str) -> tuple[str, str]:
    """Split an address; an IPv6 address without a port may stand without its brackets."""
    if host.count(":") > 1 and not host.startswith("["):
        return f"[{host}]", str(DEFAULT_PORT)
    closing = host.rfind("]") + 1
    name, colon, port = host[closing:].partition(":")
    return host[:closing] + name, port if colon else str(DEFAULT_PORT)

"""TCP ports for servers that are about to start: free ones, and those that a user named."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from contextlib import ExitStack

from lasttoken.errors import ServerStartFailed


def free_ports(host: str, count: int) -> list[int]:
    """Ask the operating system for different free ports.

    The ports are free when they are given out; another program may take one before the server
    binds it, so whoever starts the server must be ready to ask again.

    Args:
        host: Address that the server will bind.
        count: Number of ports.

    Returns:
        `count` different port numbers.
    """
    ports = []
    with ExitStack() as held:  # all are held until the last is known, so that none comes twice
        for _ in range(count):
            listener = held.enter_context(_socket_for(host))
            listener.bind((host, 0))
            ports.append(int(listener.getsockname()[1]))
    return ports


def check_ports(host: str, ports: Mapping[str, int]) -> None:
    """Check that ports can be bound, before a server takes its time to load and then cannot.

    Args:
        host: Address that the server will bind.
        ports: What each is called in a message, and its number.

    Raises:
        ServerStartFailed: One of them cannot.
    """
    for name, port in ports.items():
        with _socket_for(host) as listener:
            # As the server does: what is left of closed connections is in nobody's way.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind((host, port))
            except OSError as error:
                raise ServerStartFailed(
                    f"{name} is {port}, which cannot be bound on {host}: "
                    f"{error.strerror or error}; choose another, or 0 for a free one"
                ) from None


def _socket_for(host: str) -> socket.socket:
    return socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)


def address(host: str, port: int) -> str:
    """Join host and port as URLs want them, `[::1]:8001` for IPv6.

    A wildcard host is not an address that a client can call, so loopback takes its place.
    """
    callable_host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - not bound
    return f"[{callable_host}]:{port}" if ":" in callable_host else f"{callable_host}:{port}"

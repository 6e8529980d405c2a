"""Free TCP ports for servers that are about to start."""

from __future__ import annotations

import socket
from contextlib import ExitStack


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
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    ports = []
    with ExitStack() as held:  # all are held until the last is known, so that none comes twice
        for _ in range(count):
            listener = held.enter_context(socket.socket(family, socket.SOCK_STREAM))
            listener.bind((host, 0))
            ports.append(int(listener.getsockname()[1]))
    return ports


def address(host: str, port: int) -> str:
    """Join host and port as URLs want them, `[::1]:8001` for IPv6.

    A wildcard host is not an address that a client can call, so loopback takes its place.
    """
    callable_host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - not bound
    return f"[{callable_host}]:{port}" if ":" in callable_host else f"{callable_host}:{port}"

"""The command ``lasttoken gateway`` in a process of its own, on a free port."""

from __future__ import annotations

import importlib.util
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from lasttoken_perf.errors import MissingLibrary, PeerFailed

_NEEDED = ("httpx", "openai", "orjson", "starlette", "uvicorn")
_START_S, _STOP_S = 60.0, 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayProcess:
    """A running gateway.

    Attributes:
        url: ``http://host:port``.
        process: The process.
    """

    url: str
    process: subprocess.Popen[str]


@contextmanager
def gateway_process(upstream: str, *options: str) -> Iterator[GatewayProcess]:
    """Run a gateway for as long as the block lasts; it ends by SIGTERM.

    Args:
        upstream: ``host:port`` of Triton's gRPC service, or several separated by commas.
        options: More arguments of the command.

    Raises:
        MissingLibrary: The gateway's libraries or the openai package are not installed.
        PeerFailed: The gateway did not start.
    """
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingLibrary(f"needs {missing[0]!r}: pip install 'lasttoken-perf[gateway]'")
    gateway = start_gateway(upstream, *options)
    try:
        yield gateway
    finally:
        stop_gateway(gateway)


def start_gateway(upstream: str, *options: str, port: int = 0) -> GatewayProcess:
    """Start a gateway; see `gateway_process`.

    Args:
        upstream: As of `gateway_process`.
        options: As of `gateway_process`.
        port: Port to bind; 0 for a free one.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "lasttoken.cli", "gateway", "--url", upstream, "--port", str(port),
         "--log-level", "warning", *options],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    banner = process.stdout.readline()
    if " on http" not in banner:
        process.kill()
        raise PeerFailed(f"the gateway ended with exit code {process.wait()}: {banner!r}")
    gateway = GatewayProcess(url=banner.split(" on ")[1].strip(), process=process)
    _wait_until_it_listens(gateway)  # the port is taken, and named, a moment earlier
    return gateway


def _wait_until_it_listens(gateway: GatewayProcess) -> None:
    host, _, port = gateway.url.rpartition("/")[2].rpartition(":")
    deadline_s = time.monotonic() + _START_S
    while True:
        with socket.socket() as probe:
            if probe.connect_ex((host, int(port))) == 0:
                return
        if gateway.process.poll() is not None or time.monotonic() > deadline_s:
            gateway.process.kill()
            raise PeerFailed(f"the gateway at {gateway.url} does not take connections")
        time.sleep(0.05)


def stop_gateway(gateway: GatewayProcess) -> None:
    """End a gateway by SIGTERM, or by SIGKILL if it does not."""
    gateway.process.terminate()
    try:
        gateway.process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        gateway.process.kill()
        gateway.process.wait()
    if gateway.process.stdout is not None:
        gateway.process.stdout.close()

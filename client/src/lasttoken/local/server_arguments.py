"""The arguments that `tritonserver` is started with: where it listens, and what it does not do."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

CLOSED_APIS = ("shared-memory", "trace", "logging")
"""Protocols that nobody may call unless told otherwise. The repository's index stays open, since
clients list models there: loading and unloading are refused by the model control mode."""

_FIXED_ARGUMENTS = (
    "--model-control-mode=none",
    "--exit-on-error=true",
    "--strict-readiness=true",
    "--disable-auto-complete-config",
    "--allow-sagemaker=false",
    "--allow-vertex-ai=false",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """Ports of a server; None: the service is off."""

    grpc: int
    http: int | None
    metrics: int | None


def server_arguments(
    host: str,
    ports: Ports,
    *,
    server_id: str,
    exit_timeout_s: float,
    closed_apis: Sequence[str],
) -> list[str]:
    """Return arguments of `tritonserver`.

    Args:
        host: IP address to bind.
        ports: Where its services listen.
        server_id: What it calls itself; its shared memory has names that begin with it and `_`.
        exit_timeout_s: Time that requests in flight have at its end, in seconds.
        closed_apis: Protocols that nobody may call.
    """
    arguments = [f"--grpc-address={host}", f"--grpc-port={ports.grpc}"]
    if ports.http is None:
        arguments.append("--allow-http=false")
    else:
        arguments += [f"--http-address={host}", f"--http-port={ports.http}"]
    if ports.metrics is None:
        arguments.append("--allow-metrics=false")
    else:
        arguments += [f"--metrics-address={host}", f"--metrics-port={ports.metrics}"]
    arguments += _FIXED_ARGUMENTS
    if closed_apis:
        # Open for who has the secret of this start, which is not kept.
        closed = f"{','.join(closed_apis)}:nobody={secrets.token_hex(16)}"
        arguments += [f"--grpc-restricted-protocol={closed}", f"--http-restricted-api={closed}"]
    arguments += [
        f"--id={server_id}",
        f"--exit-timeout-secs={max(1, round(exit_timeout_s))}",
        f"--backend-config=python,shm-region-prefix-name={server_id}_",
    ]
    return arguments

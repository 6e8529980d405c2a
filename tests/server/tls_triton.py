"""A real Triton with TLS on its gRPC port, ready when its plain HTTP port says so."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lasttoken.local.cache_folder import default_cache_folder
from lasttoken.local.ports import free_ports
from lasttoken.local.process import ServerProcess
from lasttoken.local.program import find_program
from lasttoken.local.server_environment import REQUIREMENTS


@contextmanager
def tls_triton(
    repository: Path, log: Path, *, cache_folder: Path | None, tls_arguments: list[str]
) -> Iterator[int]:
    """Serve a repository; gives the gRPC port on 127.0.0.1."""
    program = find_program(cache_folder or default_cache_folder(), None, REQUIREMENTS, print)
    grpc_port, http_port = free_ports("127.0.0.1", 2)
    process = ServerProcess(
        [
            program.path,
            *program.arguments,
            f"--model-repository={repository}",
            "--grpc-address=127.0.0.1",
            f"--grpc-port={grpc_port}",
            "--http-address=127.0.0.1",
            f"--http-port={http_port}",
            "--allow-metrics=false",
            "--disable-auto-complete-config",
            f"--backend-config=python,shm-region-prefix-name=tls_{grpc_port}_",
            *tls_arguments,
        ],
        environment=program.environment,
        library_path=program.library_path,
        log_path=log,
    )
    try:
        end = time.monotonic() + 120
        while not _is_ready(http_port):
            assert time.monotonic() < end, process.log()
            assert not process.wait(0.05), process.log()
        yield grpc_port
    finally:
        process.stop(30.0)


def _is_ready(http_port: int) -> bool:
    try:
        url = f"http://127.0.0.1:{http_port}/v2/health/ready"
        with urllib.request.urlopen(url, timeout=2) as answer:
            return answer.status == 200
    except OSError:
        return False

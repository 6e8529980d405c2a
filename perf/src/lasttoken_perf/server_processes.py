"""The processes of a local server: Triton's own and those of its Python models."""

from __future__ import annotations

from pathlib import Path

import psutil

_STUB = "triton_python_backend_stub"


def server_processes(pid: int) -> dict[str, psutil.Process]:
    """Return the processes by name: ``server``, and each Python model's.

    Args:
        pid: Process of `tritonserver`.
    """
    server = psutil.Process(pid)
    processes = {"server": server}
    for child in server.children(recursive=True):
        try:
            words = child.cmdline()
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
        # triton_python_backend_stub REPOSITORY/MODEL/VERSION/model.py ...
        if len(words) > 1 and _STUB in words[0]:
            processes[Path(words[1]).parents[1].name] = child
    return processes


def resident_bytes(process: psutil.Process) -> int | None:
    """Return the resident memory; None of a process that has ended."""
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return None

"""How much memory this process may still take: less than the machine has, in most containers.

Beyond a container's limit the kernel kills the process, whatever the machine has free.

Source: memory.max, memory.current and memory.stat in "Control Group v2", memory.limit_in_bytes and
memory.usage_in_bytes in "Memory Resource Controller" of the Linux kernel's documentation. Files
that were read and are not in use any more count as taken there and are given up for what asks;
Kubernetes leaves them out of its working set too.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil

_CGROUPS, _PROCESS_CGROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def available_memory_bytes(cgroups: Path = _CGROUPS, process: Path = _PROCESS_CGROUPS) -> int:
    """Return the memory that can be had without swapping and within the container's limit.

    Args:
        cgroups: Where control groups are mounted.
        process: Where the process's own are named.
    """
    return max(0, min(int(psutil.virtual_memory().available), *_room(cgroups, process), 2**63))


def _room(cgroups: Path, process: Path) -> Iterator[int]:
    """Yield what each control group of the process that has a limit leaves."""
    try:
        lines = process.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, files = cgroups, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            root = cgroups / "memory"
            files = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        folder = root / path.lstrip("/")
        for group in (folder, *folder.parents):
            if group.is_relative_to(root) and (room := _room_of(group, *files)) is not None:
                yield room


def _room_of(group: Path, limit: str, usage: str, unused_files: str) -> int | None:
    try:
        most, taken = int((group / limit).read_text()), int((group / usage).read_text())
        statistics = (group / "memory.stat").read_text().split()
    except (OSError, ValueError):  # no such group here, or "max": no limit
        return None
    numbers = dict(zip(statistics[::2], statistics[1::2], strict=False))
    return most - taken + int(numbers.get(unused_files, 0))

"""How much memory this process may still take: less than the machine has, in most containers.

Beyond a container's limit the kernel kills the process, whatever the machine has free.

Source: memory.max, memory.current and memory.stat in "Control Group v2", memory.limit_in_bytes and
memory.usage_in_bytes in "Memory Resource Controller" of the Linux kernel's documentation. Files
that were read and are not in use any more count as taken there and are given up for what asks;
Kubernetes leaves them out of its working set too.
"""

from __future__ import annotations

from pathlib import Path

import psutil

from lasttoken_export.model_sources import ENCODER
from lasttoken_export.server_modules import server_module

_FILES = {
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    2: ("memory.max", "memory.current", "inactive_file"),
}
"""By the version of control groups: limit, usage, and the key of unused files in memory.stat."""


def available_memory_bytes(mount: Path | None = None, of_process: Path | None = None) -> int:
    """Return the memory that can be had without swapping and within the container's limit.

    Args:
        mount: Where control groups are mounted; None for where Linux has them.
        of_process: Where the process's own are named; None likewise.
    """
    module = server_module(ENCODER, "control_groups")
    groups = module.control_groups("memory", mount or module.MOUNT, of_process or module.OF_PROCESS)
    rooms = [_room(group.folder, *_FILES[group.version]) for group in groups]
    limits = [room for room in rooms if room is not None]
    return max(0, min([int(psutil.virtual_memory().available), *limits]))


def _room(folder: Path, limit: str, usage: str, unused_files: str) -> int | None:
    """Return what a control group leaves; None where it has no limit."""
    try:
        most, taken = int((folder / limit).read_text()), int((folder / usage).read_text())
        statistics = (folder / "memory.stat").read_text().split()
    except (OSError, ValueError):  # no such group here, or "max"
        return None
    numbers = dict(zip(statistics[::2], statistics[1::2], strict=False))
    return most - taken + int(numbers.get(unused_files, 0))

"""How much memory this process may still take: less than the machine has, in most containers.

Beyond a container's limit the kernel kills the process, whatever the machine has free.

Source: proc_meminfo(5); memory.max, memory.current and memory.stat in "Control Group v2",
memory.limit_in_bytes and memory.usage_in_bytes in "Memory Resource Controller" of the Linux
kernel's documentation. Pages of files count as taken there and are given up for what asks, also
"active" ones, which were read twice: a graph of gigabytes that was compared and hashed is.
"""

from __future__ import annotations

from pathlib import Path

from control_groups import MOUNT, OF_PROCESS, control_groups

_FILES = {
    1: (
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        ("total_inactive_file", "total_active_file"),
    ),
    2: ("memory.max", "memory.current", ("inactive_file", "active_file")),
}
"""By the version of control groups: limit, usage, and the keys of files' pages in memory.stat."""


def available_memory_bytes(
    free_bytes: int | None = None, mount: Path = MOUNT, of_process: Path = OF_PROCESS
) -> int:
    """Return the memory that can be had without swapping and within the container's limit.

    Args:
        free_bytes: What the machine has; None for what Linux says.
        mount: Where control groups are mounted.
        of_process: Where the process's own are named.
    """
    groups = control_groups("memory", mount, of_process)
    rooms = [_room(group.folder, *_FILES[group.version]) for group in groups]
    limits = [room for room in rooms if room is not None]
    return max(0, min([_free() if free_bytes is None else free_bytes, *limits]))


def _free(meminfo: Path = Path("/proc/meminfo")) -> int:
    fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
    return int(fields["MemAvailable"].split()[0]) * 1024  # "kB" there are KiB


def _room(folder: Path, limit: str, usage: str, files: tuple[str, ...]) -> int | None:
    """Return what a control group leaves; None where it has no limit."""
    try:
        most, taken = int((folder / limit).read_text()), int((folder / usage).read_text())
        statistics = (folder / "memory.stat").read_text().split()
    except (OSError, ValueError):  # no such group here, or "max"
        return None
    numbers = dict(zip(statistics[::2], statistics[1::2], strict=False))
    return most - taken + sum(int(numbers.get(key, 0)) for key in files)

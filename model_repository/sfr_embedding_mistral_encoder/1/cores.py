"""How many cores this process may use: fewer than the machine has, in most containers.

ONNX Runtime takes a thread for each physical core of the machine and pins it there, whatever
affinity and quota say. Threads beyond a quota are all stopped together when it is spent; threads
beyond an affinity cannot be pinned and share the cores that there are.

Source: sched_setaffinity(2), cgroups(7); cpu.max in "Control Group v2" and cfs_quota_us in "CFS
Bandwidth Control" of the Linux kernel's documentation; what Kubernetes calls a CPU limit is the
quota, its static CPU manager sets the affinity.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

from control_groups import MOUNT, OF_PROCESS, control_groups

_PROCESSORS = Path("/sys/devices/system/cpu")


def limited_cores() -> int | None:
    """Return the cores that this process may use; None where nothing keeps it from using all.

    None on systems other than Linux too: a model can be exported and compared there.
    """
    if not hasattr(os, "sched_getaffinity"):
        return None
    allowed = os.sched_getaffinity(0)
    cores, quota = physical_cores(allowed), cpu_quota()
    # Rounded up: at one and a half, two threads were measured faster than one.
    if quota is not None and math.ceil(quota) < cores:
        return max(1, math.ceil(quota))
    return cores if len(allowed) < (os.cpu_count() or 1) else None


def physical_cores(processors: set[int], root: Path = _PROCESSORS) -> int:
    """Count the cores that logical processors are of.

    Args:
        processors: Their numbers.
        root: Where Linux describes them.
    """
    cores = set()
    for number in processors:
        siblings = root / f"cpu{number}" / "topology" / "thread_siblings_list"
        try:
            cores.add(siblings.read_text())
        except OSError:
            cores.add(str(number))
    return len(cores)


def cpu_quota(mount: Path = MOUNT, of_process: Path = OF_PROCESS) -> float | None:
    """Return the least CPU quota of the process's control groups, in cores; None for none.

    Args:
        mount: Where control groups are mounted.
        of_process: Where the process's own are named.
    """
    quotas = [
        _quota_v2(group.folder) if group.version == 2 else _quota_v1(group.folder)
        for group in control_groups("cpu", mount, of_process)
    ]
    return min((quota for quota in quotas if quota is not None), default=None)


def _quota_v2(folder: Path) -> float | None:
    try:
        quota, period = (folder / "cpu.max").read_text().split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else int(quota) / int(period)


def _quota_v1(folder: Path) -> float | None:
    try:
        quota = int((folder / "cpu.cfs_quota_us").read_text())
        period = int((folder / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return None
    return None if quota <= 0 else quota / period

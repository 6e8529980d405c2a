"""The control groups that a process is in, where Linux keeps what a container may use.

Source: cgroups(7); "Control Group v2" and "Control Groups version 1" of the Linux kernel's
documentation.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MOUNT, OF_PROCESS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
"""Where control groups are mounted, and where this process's own are named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlGroup:
    """One of them.

    Attributes:
        folder: Its files; not there where it is another mount's.
        version: 1 or 2, whose files have other names.
    """

    folder: Path
    version: int


def control_groups(
    controller: str, mount: Path = MOUNT, of_process: Path = OF_PROCESS
) -> Iterator[ControlGroup]:
    """Yield the process's groups of a controller and those above them, as far as they are mounted.

    Args:
        controller: ``cpu`` or ``memory``.
        mount: See `MOUNT`.
        of_process: See `OF_PROCESS`; none are named where it cannot be read.
    """
    try:
        lines = of_process.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            yield from _upwards(mount, path, version=2)
        elif controller in controllers.split(","):
            for root in dict.fromkeys((mount / controller, mount / controllers)):
                yield from _upwards(root, path, version=1)


def _upwards(root: Path, path: str, *, version: int) -> Iterator[ControlGroup]:
    folder = root / path.lstrip("/")
    yield ControlGroup(folder=folder, version=version)
    while folder != root:
        folder = folder.parent
        yield ControlGroup(folder=folder, version=version)

"""GPUs by the driver's command ``nvidia-smi``, for a machine whose Python has no NVML bindings.

Source: https://docs.nvidia.com/deploy/nvidia-smi/ (memory in MiB, power in watts, utilisation in
per cent; a figure that a GPU does not give is a word in brackets).
"""

from __future__ import annotations

import csv
import shutil
import subprocess
from dataclasses import dataclass

_QUERY = (
    "name", "memory.total", "driver_version", "enforced.power.limit", "power.draw", "memory.used",
    "utilization.gpu",
)  # fmt: skip
_TIMEOUT_S = 10.0
_MIB = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class SmiLine:
    """What the command says of one GPU.

    Attributes:
        name: As the driver calls it.
        memory_bytes: All of its memory.
        driver: Version.
        power_limit_w: In force; None where the GPU does not say, as for the next ones.
        power_w: At this moment.
        used_bytes: Memory in use.
        utilisation: Share of the last period with a kernel running, 0 to 1.
    """

    name: str
    memory_bytes: int
    driver: str
    power_limit_w: float | None
    power_w: float | None
    used_bytes: int | None
    utilisation: float | None


def query_smi() -> list[SmiLine]:
    """Ask the command; an empty list where there is none, or no driver behind it."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    command = [program, f"--query-gpu={','.join(_QUERY)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return parse_smi(done.stdout)


def parse_smi(text: str) -> list[SmiLine]:
    """Read the answer of `query_smi`'s command, a GPU a line."""
    found = []
    for fields in csv.reader(text.strip().splitlines(), skipinitialspace=True):
        name, total, driver, limit, power, used, busy = (field.strip() for field in fields)
        used_mib, percent = _number(used), _number(busy)
        found.append(
            SmiLine(
                name=name,
                memory_bytes=int((_number(total) or 0) * _MIB),
                driver=driver,
                power_limit_w=_number(limit),
                power_w=_number(power),
                used_bytes=None if used_mib is None else int(used_mib * _MIB),
                utilisation=None if percent is None else percent / 100,
            )
        )
    return found


def _number(field: str) -> float | None:
    try:
        return float(field)
    except ValueError:  # "[N/A]", "[Not Supported]"
        return None

"""NVIDIA GPUs as the driver's management library (NVML) sees them; none where there is no driver.

Source: https://docs.nvidia.com/deploy/nvml-api/ (power in milliwatts, memory in bytes, utilisation
in per cent of the last sampling period).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pynvml


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuSample:
    """One look at all GPUs together.

    Attributes:
        power_w: Power, watts.
        memory_bytes: Memory in use.
        utilisation: Mean share of time with a kernel running, 0 to 1.
    """

    power_w: float
    memory_bytes: int
    utilisation: float


def describe_gpus() -> list[dict[str, Any]]:
    """Return name, memory, driver and power limit of each GPU; an empty list without a driver."""
    with _nvml() as handles:
        return [
            {
                "name": _text(pynvml.nvmlDeviceGetName(handle)),
                "memory_bytes": int(pynvml.nvmlDeviceGetMemoryInfo(handle).total),
                "driver": _text(pynvml.nvmlSystemGetDriverVersion()),
                "power_limit_w": pynvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000,
            }
            for handle in handles
        ]


def sample_gpus() -> GpuSample | None:
    """Look at the GPUs once; None where there is none."""
    with _nvml() as handles:
        if not handles:
            return None
        return GpuSample(
            power_w=sum(pynvml.nvmlDeviceGetPowerUsage(handle) for handle in handles) / 1000,
            memory_bytes=sum(int(pynvml.nvmlDeviceGetMemoryInfo(h).used) for h in handles),
            utilisation=sum(pynvml.nvmlDeviceGetUtilizationRates(h).gpu for h in handles)
            / len(handles)
            / 100,
        )


@contextmanager
def _nvml() -> Iterator[list[Any]]:
    """Handles of all GPUs; an empty list where the library or the driver is missing."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield []
        return
    try:
        yield [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
    finally:
        pynvml.nvmlShutdown()


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value

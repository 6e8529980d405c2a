"""NVIDIA GPUs as the driver's management library (NVML) sees them; none where there is no driver.

Where NVML or its bindings are missing, ``nvidia-smi`` is asked instead.

Source: https://docs.nvidia.com/deploy/nvml-api/ (power in milliwatts, memory in bytes, utilisation
in per cent of the last sampling period).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from lasttoken_perf.nvidia_smi import query_smi

try:
    import pynvml
except ModuleNotFoundError:  # a bare machine with another Python
    pynvml = None


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
        found = [
            {
                "name": _text(pynvml.nvmlDeviceGetName(handle)),
                "memory_bytes": int(pynvml.nvmlDeviceGetMemoryInfo(handle).total),
                "driver": _text(pynvml.nvmlSystemGetDriverVersion()),
                "power_limit_w": pynvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000,
            }
            for handle in handles
        ]
    return found or [
        {"name": line.name, "memory_bytes": line.memory_bytes, "driver": line.driver,
         "power_limit_w": line.power_limit_w}
        for line in query_smi()
    ]  # fmt: skip


def sample_gpus() -> GpuSample | None:
    """Look at the GPUs once; None where there is none."""
    with _nvml() as handles:
        if not handles:
            return _sample_by_smi()
        return GpuSample(
            power_w=sum(pynvml.nvmlDeviceGetPowerUsage(handle) for handle in handles) / 1000,
            memory_bytes=sum(int(pynvml.nvmlDeviceGetMemoryInfo(h).used) for h in handles),
            utilisation=sum(pynvml.nvmlDeviceGetUtilizationRates(h).gpu for h in handles)
            / len(handles)
            / 100,
        )


def _sample_by_smi() -> GpuSample | None:
    """Look with the command; None also where a GPU leaves a figure out, which is not zero."""
    lines = query_smi()
    power = [line.power_w for line in lines if line.power_w is not None]
    used = [line.used_bytes for line in lines if line.used_bytes is not None]
    busy = [line.utilisation for line in lines if line.utilisation is not None]
    if not lines or not len(power) == len(used) == len(busy) == len(lines):
        return None
    return GpuSample(power_w=sum(power), memory_bytes=sum(used), utilisation=sum(busy) / len(lines))


@contextmanager
def _nvml() -> Iterator[list[Any]]:
    """Handles of all GPUs; an empty list where the library or the driver is missing."""
    if pynvml is None:
        yield []
        return
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

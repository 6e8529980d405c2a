"""NVIDIA GPUs as the driver's management library (NVML) sees them; none where there is no driver.

Where NVML or its bindings are missing, ``nvidia-smi`` is asked instead.

Source: https://docs.nvidia.com/deploy/nvml-api/ (power in milliwatts, memory in bytes, utilisation
in per cent of the last sampling period).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
    """Return name, memory, driver and power limit of each GPU; an empty list without a driver.

    Memory is 0 and the power limit None where the driver does not tell them.
    """
    with _nvml() as handles:
        found = [
            {
                "name": _text(pynvml.nvmlDeviceGetName(handle)),
                "memory_bytes": int(_told(pynvml.nvmlDeviceGetMemoryInfo, handle, "total") or 0),
                "driver": _text(pynvml.nvmlSystemGetDriverVersion()),
                "power_limit_w": _watts(_told(pynvml.nvmlDeviceGetEnforcedPowerLimit, handle)),
            }
            for handle in handles
        ]
    return found or [
        {"name": line.name, "memory_bytes": line.memory_bytes, "driver": line.driver,
         "power_limit_w": line.power_limit_w}
        for line in query_smi()
    ]  # fmt: skip


def sample_gpus() -> GpuSample | None:
    """Look at the GPUs once; None where there is none, or one leaves a figure out."""
    with _nvml() as handles:
        if not handles:
            return _sample_by_smi()
        power = [_watts(_told(pynvml.nvmlDeviceGetPowerUsage, h)) for h in handles]
        used = [_told(pynvml.nvmlDeviceGetMemoryInfo, h, "used") for h in handles]
        busy = [_told(pynvml.nvmlDeviceGetUtilizationRates, h, "gpu") for h in handles]
    return _together(power, used, [None if b is None else b / 100 for b in busy])


def _told(read: Callable[[Any], Any], handle: Any, field: str | None = None) -> Any:
    """Return a figure of a GPU; None where it does not give it, as in MIG mode or in a guest."""
    try:
        found = read(handle)
    except pynvml.NVMLError:
        return None
    return found if field is None else getattr(found, field)


def _watts(milliwatts: int | None) -> float | None:
    return None if milliwatts is None else milliwatts / 1000


def _together(
    power_w: list[float | None], used_bytes: list[int | None], utilisation: list[float | None]
) -> GpuSample | None:
    """Put the figures of all GPUs together; None where one is left out, which is not zero."""
    power = [watts for watts in power_w if watts is not None]
    used = [size for size in used_bytes if size is not None]
    busy = [share for share in utilisation if share is not None]
    if not power_w or not len(power) == len(used) == len(busy) == len(power_w):
        return None
    return GpuSample(
        power_w=sum(power), memory_bytes=int(sum(used)), utilisation=sum(busy) / len(busy)
    )


def _sample_by_smi() -> GpuSample | None:
    lines = query_smi()
    return _together(
        [line.power_w for line in lines],
        [line.used_bytes for line in lines],
        [line.utilisation for line in lines],
    )


@contextmanager
def _nvml() -> Iterator[list[Any]]:
    """Handles of all GPUs; an empty list where the library, the driver or a GPU is missing."""
    if pynvml is None:
        yield []
        return
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield []
        return
    try:
        count = pynvml.nvmlDeviceGetCount()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(count)]
    except pynvml.NVMLError:  # one has fallen off the bus, or is not this container's
        handles = []
    try:
        yield handles
    finally:
        pynvml.nvmlShutdown()


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value

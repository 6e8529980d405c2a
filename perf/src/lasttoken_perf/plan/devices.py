"""The GPUs that are planned for: memory, bandwidth and dense arithmetic, from their data sheets."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from types import MappingProxyType


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One kind of GPU.

    Attributes:
        name: As in ``data/devices.csv``.
        memory_bytes: Memory; the data sheet's GB taken as 10^9 bytes, which errs on the safe side.
        bandwidth_bytes_s: Of its memory.
        operations_s: Dense operations a second by arithmetic type (``fp16``, ``int8``, ``fp8``);
            with fp32 accumulation, without sparsity. A type that it lacks is not there.
        compute_capability: ``(major, minor)``.
        note: What the row of the file adds.
    """

    name: str
    memory_bytes: float
    bandwidth_bytes_s: float
    operations_s: Mapping[str, float]
    compute_capability: tuple[int, int]
    note: str


@cache
def load_devices() -> tuple[Device, ...]:
    """Return the devices of ``data/devices.csv`` in its order."""
    text = (resources.files("lasttoken_perf.plan") / "data" / "devices.csv").read_text("utf-8")
    return tuple(_device(row) for row in csv.DictReader(text.splitlines()))


def _device(row: Mapping[str, str]) -> Device:
    rates = {
        "fp16": row["fp16_dense_tflops"],
        "int8": row["int8_dense_tops"],
        "fp8": row["fp8_dense_tflops"],
    }
    major, minor = row["compute_capability"].split(".")
    return Device(
        name=row["gpu"],
        memory_bytes=float(row["memory_gb"]) * 1e9,
        bandwidth_bytes_s=float(row["bandwidth_gb_s"]) * 1e9,
        operations_s=MappingProxyType({k: float(v) * 1e12 for k, v in rates.items() if v}),
        compute_capability=(int(major), int(minor)),
        note=row["note"],
    )

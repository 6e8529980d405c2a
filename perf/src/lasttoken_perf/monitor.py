"""Processor time and memory of a process with its children, and the GPUs, while something runs."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Any, Self

import psutil

from lasttoken_perf.gpu import GpuSample, sample_gpus

_PERIOD_S = 0.2


class ResourceMonitor:
    """Samples between entering and leaving a `with` block.

    Args:
        pid: The process; None where the subject runs on another machine: then only GPUs of this
            machine are looked at.
    """

    def __init__(self, pid: int | None) -> None:
        self._pid = pid
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="monitor", daemon=True)
        self._rss_bytes = 0
        self._gpu: list[GpuSample] = []
        self._cpu_s = 0.0
        self._seconds = 0.0

    def __enter__(self) -> Self:
        self._started_s, self._started_cpu_s = time.perf_counter(), self._cpu_seconds()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._cpu_s = self._cpu_seconds() - self._started_cpu_s
        self._seconds = time.perf_counter() - self._started_s
        self._stop.set()
        self._thread.join()

    def fields(self) -> dict[str, Any]:
        """Return the row's fields of resources; what was not seen is left out."""
        fields: dict[str, Any] = {}
        if self._pid is not None and self._seconds:
            fields = {"cpu_cores": self._cpu_s / self._seconds, "rss_bytes": self._rss_bytes}
        if self._gpu:
            fields["gpu_power_w"] = sum(s.power_w for s in self._gpu) / len(self._gpu)
            fields["gpu_memory_bytes"] = max(s.memory_bytes for s in self._gpu)
            fields["gpu_utilisation"] = sum(s.utilisation for s in self._gpu) / len(self._gpu)
        return fields

    def _sample(self) -> None:
        while True:
            self._rss_bytes = max(self._rss_bytes, sum(map(_resident_bytes, self._processes())))
            if (sample := sample_gpus()) is not None:
                self._gpu.append(sample)
            if self._stop.wait(_PERIOD_S):
                return

    def _processes(self) -> list[psutil.Process]:
        if self._pid is None:
            return []
        try:
            process = psutil.Process(self._pid)
            return [process, *process.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def _cpu_seconds(self) -> float:
        return sum(map(_processor_seconds, self._processes()))


def _resident_bytes(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


def _processor_seconds(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)

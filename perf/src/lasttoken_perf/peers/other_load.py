"""Processor time that other programs take while something is timed: then a figure says little."""

from __future__ import annotations

import os
import time
from types import TracebackType
from typing import Self

import psutil

OTHER_CORES_BAR = 0.2
"""Cores of other programs from which on the user is told; a quiet machine has some hundredths."""

_SHORTEST_S = 1.0
"""Below it the clocks' ticks, 10 ms for each state of each core, are tenths of a core."""


class OtherLoad:
    """Reads the clocks of this process's cores between entering and leaving a `with` block."""

    def __enter__(self) -> Self:
        self._busy_s, self._own_s, self._wall_s = _busy_s(), _own_s(), time.perf_counter()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._wall_s = time.perf_counter() - self._wall_s
        self._busy_s = _busy_s() - self._busy_s
        self._own_s = _own_s() - self._own_s

    def cores(self, subject_cores: float) -> float | None:
        """Return the processor time of all others over wall time, in cores.

        None after less than a second, which the clocks are too coarse for.

        Args:
            subject_cores: That of what was timed; this process, its client, is taken off too.
        """
        if self._wall_s < _SHORTEST_S:
            return None
        return max(0.0, (self._busy_s - self._own_s) / self._wall_s - subject_cores)


def _busy_s() -> float:
    """Return the seconds for which our cores have worked, for whomever, or were taken away."""
    each = psutil.cpu_times(percpu=True)
    ours = [each[number] for number in os.sched_getaffinity(0) if number < len(each)]
    # guests' time is in that of user programs already
    return sum(t.user + t.nice + t.system + t.irq + t.softirq + t.steal for t in ours)


def _own_s() -> float:
    times = os.times()
    return times.user + times.system

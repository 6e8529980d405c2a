"""For how long an engine computed anything, whatever it computed beside each other."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class BusyTime:
    """Counts time in which one batch or several are being computed, once.

    Args:
        clock: Seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._running = 0
        self._since_s = 0.0

    def begin(self) -> None:
        """A batch begins."""
        with self._lock:
            if not self._running:
                self._since_s = self._clock()
            self._running += 1

    def end(self) -> float:
        """A batch has ended; return the seconds that no `end` before it has told."""
        with self._lock:
            now_s = self._clock()
            told, self._since_s = now_s - self._since_s, now_s
            self._running -= 1
            return told

"""A progress bar on stderr: share done, rate, time left. Silent where nobody watches."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TextIO

_BAR_WIDTH = 24
_INTERVAL_S = 0.1


class Progress:
    """One line that is written over; nothing at all when the stream is no terminal."""

    def __init__(
        self,
        total: int | None,
        *,
        done: int = 0,
        unit: str = "texts",
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin.

        Args:
            total: What there is to do in all; None when it is not known.
            done: What was done before, which does not count for the rate.
            unit: What is counted.
            stream: Where to write; None for stderr.
            clock: Tells the time in seconds.
        """
        self._total = total
        self._done = self._done_before = done
        self._unit = unit
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock
        self._began_s = clock()
        self._written_s = float("-inf")
        self._watched = self._stream.isatty()

    def advance(self, count: int) -> None:
        """Note that so much more is done."""
        self._done += count
        now = self._clock()
        if self._watched and now - self._written_s >= _INTERVAL_S:
            self._written_s = now
            self._write(now)

    def close(self) -> None:
        """Write the last state and end the line."""
        if self._watched and self._done > self._done_before:
            self._write(self._clock())
            self._stream.write("\n")
            self._stream.flush()

    def _write(self, now: float) -> None:
        self._stream.write("\r" + self.line(now) + "\x1b[K")
        self._stream.flush()

    def line(self, now: float) -> str:
        """The line as it reads at a time of the clock."""
        seconds = max(now - self._began_s, 1e-9)
        rate = (self._done - self._done_before) / seconds
        words = f"{self._done:,} {self._unit}, {rate:,.0f}/s"
        if not self._total:
            return f"{words}, {_time(seconds)}"
        share = min(1.0, self._done / self._total)
        bar = "#" * round(share * _BAR_WIDTH)
        left = _time((self._total - self._done) / rate) if rate > 0 else "?"
        of = f"{self._done:,}/{self._total:,} {self._unit}, {rate:,.0f}/s"
        return f"{share:4.0%} |{bar:<{_BAR_WIDTH}}| {of}, {left} left"


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"

"""How far a run is, on one line of the terminal."""

from __future__ import annotations

import time
from typing import TextIO

_EVERY_S = 0.5
_RATE_OVER_S = 30.0
_CLEAR = "\r\x1b[K"


class ProgressLine:
    """Rows done, rate and time left, rewritten in place; silent where nobody looks."""

    def __init__(self, stream: TextIO, *, shown: bool | None = None) -> None:
        """Prepare the line.

        Args:
            stream: Where it goes, such as `sys.stderr`.
            shown: Whether to write at all; None where the stream is a terminal.
        """
        self._stream = stream
        self._shown = stream.isatty() if shown is None else shown
        self._rows = self._done = 0
        self._next_s = 0.0
        self._history: list[tuple[float, int]] = []

    def begin(self, *, rows: int, done: int) -> None:
        """Note how many rows there are, and how many an earlier run has done."""
        self._rows, self._done = rows, done
        self._history = [(time.monotonic(), done)]
        self._draw()

    def advance(self, rows: int) -> None:
        """Note that so many rows more are done."""
        self._done += rows
        if time.monotonic() >= self._next_s:
            self._draw()

    def end(self) -> None:
        """Leave the last state on a line of its own."""
        self._draw()
        if self._shown:
            self._stream.write("\n")
            self._stream.flush()

    def line(self, now_s: float) -> str:
        """Word the state at a time of the monotonic clock, in seconds."""
        since_s, done_then = self._history[0]
        rate = (self._done - done_then) / max(now_s - since_s, 1e-9)
        share = self._done / self._rows if self._rows else 1.0
        words = f"{self._done:,}/{self._rows:,} rows ({share:.0%})"
        if self._done > done_then and now_s - since_s >= _EVERY_S:
            left = duration((self._rows - self._done) / rate)
            words += f"  {rate:,.0f} rows/s  {left} left"
        return words

    def _draw(self) -> None:
        if not self._shown:
            return
        now_s = time.monotonic()
        self._next_s = now_s + _EVERY_S
        self._stream.write(f"{_CLEAR}{self.line(now_s)}")
        self._stream.flush()
        self._history.append((now_s, self._done))
        while len(self._history) > 1 and self._history[0][0] < now_s - _RATE_OVER_S:
            del self._history[0]


def duration(seconds: float) -> str:
    """Word a time: `0:07`, `12:30`, `3:04:05`."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02}:{s:02}" if hours else f"{m}:{s:02}"

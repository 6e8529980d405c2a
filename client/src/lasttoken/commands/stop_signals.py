"""SIGTERM that ends a command as cleanly as Ctrl-C does, and at the same points."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopSignal:
    """What has ended a block of `sigterm_as_ctrl_c`.

    Attributes:
        number: The signal; SIGINT unless SIGTERM has come.
    """

    number: int = signal.SIGINT

    @property
    def exit_code(self) -> int:
        """The shell's, of a program that the signal ended: 130 or 143."""
        return 128 + self.number


@contextmanager
def sigterm_as_ctrl_c() -> Iterator[StopSignal]:
    """Let SIGTERM do inside the block what Ctrl-C does there. Only in the main thread.

    It goes to whoever handles Ctrl-C at the moment: Python, which raises KeyboardInterrupt;
    asyncio, which cancels its tasks first; or `interrupts_held`, which lets a call of gRPC's begin.
    """
    stop = StopSignal()

    def on_sigterm(number: int, frame: FrameType | None) -> None:
        stop.number = number
        handler = signal.getsignal(signal.SIGINT)
        if not callable(handler):  # ignored, as in what a shell runs in its background
            raise KeyboardInterrupt
        handler(number, frame)

    previous = signal.signal(signal.SIGTERM, on_sigterm)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, previous)

"""Ctrl-C that waits a moment."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Let a SIGINT of the main thread take effect at the end of the block.

    A KeyboardInterrupt between the start of a gRPC call and its registration in gRPC's Python layer
    leaves a call that nobody waits for and that nobody can cancel: closing its channel then hangs.
    Elsewhere than in the main thread there is no such interrupt, and nothing to do.
    """
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return
    held: list[Any] = []
    try:
        signal.signal(signal.SIGINT, lambda number, frame: held.append((number, frame)))
    except ValueError:  # the main thread of a subinterpreter has no signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if held:
            before(*held[0])

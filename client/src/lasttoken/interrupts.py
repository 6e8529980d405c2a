"""Ctrl-C that waits a moment, and SIGTERM that ends a program as cleanly as Ctrl-C."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
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


@contextmanager
def exit_on_sigterm() -> Iterator[None]:
    """Turn SIGTERM inside the block into SystemExit, so that servers and folders are cleared away.

    The exit code is the shell's for a program that SIGTERM ended: 143. Only in the main thread.
    """
    previous = signal.signal(signal.SIGTERM, _exit)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _exit(signal_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + signal_number)

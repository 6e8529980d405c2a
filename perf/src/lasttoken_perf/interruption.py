"""SIGINT and SIGTERM as one exception, so that `with` blocks end what they began.

Without it SIGTERM ends the process at once: servers, perf_analyzer and temporary folders stay.
"""

from __future__ import annotations

import contextlib
import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import psutil

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_SAME_S = 2.0
"""A signal so soon behind another is the same wish: `timeout` sends each twice."""
_GRACE_S = 5.0
"""How long a process has to end by itself."""


class Interrupted(KeyboardInterrupt):
    """A signal asked for the end. asyncio lets nothing else through but `KeyboardInterrupt`.

    Attributes:
        number: The signal.
        finished: A result of what was measured before, for ``--output``; None where that is
            nothing.
        kept: What the user is told of where that went, or "".
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number
        self.finished: dict[str, Any] | None = None
        self.kept = ""

    @property
    def exit_code(self) -> int:
        """What a shell says of a program that the signal ended."""
        return 128 + self.number


@contextmanager
def signals_unwind() -> Iterator[None]:
    """Have SIGINT and SIGTERM raise `Interrupted` within the block; what is ignored stays so.

    Processes that the block started and that are still there then, such as one that was cut short
    while it started, are ended too.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    last_s = -math.inf

    def interrupt(number: int, _frame: FrameType | None) -> None:
        nonlocal last_s
        now_s = time.monotonic()
        if now_s - last_s > _SAME_S:
            last_s = now_s
            raise Interrupted(number)

    handlers = {number: signal.getsignal(number) for number in _SIGNALS}
    changed = {n: h for n, h in handlers.items() if h not in (signal.SIG_IGN, None)}
    others = _children()
    for number in changed:
        signal.signal(number, interrupt)
    try:
        yield
    except Interrupted:
        _end(_children() - others)
        raise
    finally:
        for number, handler in changed.items():
            signal.signal(number, handler)


def _children() -> set[psutil.Process]:
    return set(psutil.Process().children(recursive=True))


def _end(processes: set[psutil.Process]) -> None:
    left = list(processes)
    for ask in (psutil.Process.terminate, psutil.Process.kill):
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                ask(process)
        _, left = psutil.wait_procs(left, timeout=_GRACE_S)

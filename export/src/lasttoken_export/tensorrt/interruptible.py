"""Work within a library that no signal ends, on a thread of its own.

Python runs a signal's handler on the main thread, between two bytecodes. While that is in TensorRT
these are its callbacks', and TensorRT drops what they raise: Ctrl-C and SIGTERM would be lost.
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

_Result = TypeVar("_Result")
GRACE_S = 2.0
"""How long interrupted work has to end. A step of TensorRT's may take minutes."""


def run_interruptible(
    work: Callable[[], _Result], stop: threading.Event, *, name: str = "worker"
) -> _Result:
    """Do work on another thread, while this one can be interrupted.

    Args:
        work: What is done; it is to end soon once `stop` is set, and its result is then dropped.
        stop: Set when this thread is interrupted.
        name: Of the thread.

    Returns:
        What `work` returns; what it raises is raised here, without the local variables of its
        frames. An interruption is raised when the work has ended, or `GRACE_S` later: it then goes
        on until it looks at `stop`.
    """
    outcome: Future[_Result] = Future()

    def run() -> None:
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001 - raised again by the thread that waits
            _forget_locals(error)
            outcome.set_exception(error)
        else:
            outcome.set_result(result)

    # A daemon: an interrupted process does not wait for it.
    thread = threading.Thread(target=run, name=name, daemon=True)
    try:
        thread.start()
        return outcome.result()
    except BaseException:
        stop.set()
        wait([outcome], timeout=GRACE_S)
        raise


def _forget_locals(error: BaseException) -> None:
    """Drop what the frames of an error hold, here and now.

    The library's objects are among it, and error, outcome and frames hold each other. The garbage
    collector would come upon them at any allocation, also within a callback of a later call of the
    library's, and TensorRT waits for itself where a builder ends while another begins.
    """
    known: BaseException | None = error
    while known is not None:
        traceback.clear_frames(known.__traceback__)
        known = known.__context__

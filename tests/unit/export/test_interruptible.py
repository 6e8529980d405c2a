"""Work on a thread of its own, which a signal ends where the library drops what callbacks raise."""

import gc
import os
import signal
import threading
import time
import weakref

import pytest

from lasttoken_export.tensorrt import interruptible
from lasttoken_export.tensorrt.callbacks import make_progress_monitor
from lasttoken_export.tensorrt.interruptible import run_interruptible


def test_what_the_work_returns_and_raises_comes_back():
    assert run_interruptible(lambda: 3, threading.Event()) == 3
    with pytest.raises(ZeroDivisionError):
        run_interruptible(lambda: 1 / 0, threading.Event())


@pytest.mark.parametrize("obeys", [True, False])
def test_a_signal_ends_it_and_work_that_does_not_end_is_not_waited_for(obeys, monkeypatch):
    monkeypatch.setattr(interruptible, "GRACE_S", 5.0 if obeys else 0.1)
    stop, released, ended = threading.Event(), threading.Event(), threading.Event()

    def work():
        os.kill(os.getpid(), signal.SIGINT)
        (stop if obeys else released).wait(30)
        ended.set()

    started_s = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_interruptible(work, stop)
    assert time.monotonic() - started_s < 4
    assert stop.is_set()
    assert ended.is_set() is obeys
    released.set()


def test_a_build_is_told_to_stop_at_its_next_step():
    class Library:
        class IProgressMonitor:
            pass

    stop, told = threading.Event(), []
    monitor = make_progress_monitor(Library, lambda *words: told.append(words), stop)
    monitor.phase_start("tactics", None, 3)
    assert monitor.step_complete("tactics", 0) is True
    stop.set()
    assert monitor.step_complete("tactics", 1) is False
    assert told == [("tactics", 1, 3), ("tactics", 2, 3)]


@pytest.mark.parametrize("interrupted", [False, True])
def test_what_failed_work_held_is_let_go_at_once(interrupted, monkeypatch):
    """Not by a garbage collection, which may come within a callback of the library's."""
    monkeypatch.setattr(interruptible, "GRACE_S", 5.0)
    held, stop = [], threading.Event()

    class Held:
        pass

    def fail():
        within = Held()
        held.append(weakref.ref(within))
        if interrupted:
            os.kill(os.getpid(), signal.SIGINT)
            stop.wait(30)
        raise ValueError(str(within))

    def work():
        without = Held()
        held.append(weakref.ref(without))
        try:
            fail()
        except ValueError as error:
            raise RuntimeError(str(without)) from error

    gc.disable()
    try:
        with pytest.raises(KeyboardInterrupt if interrupted else RuntimeError) as raised:
            run_interruptible(work, stop)
        assert [one() for one in held] == [None, None], raised
    finally:
        gc.enable()

"""What TensorRT calls back while it builds: log lines, progress, the bytes of the plan.

The base classes come with whichever library was imported, so the classes are made in functions.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, BinaryIO

OnProgress = Callable[[str, int, int], None]
"""Told a phase, its steps done and its steps in all."""


def make_logger(trt: Any) -> Any:
    """Return an ``ILogger`` that keeps errors and warnings in its lists of these names."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []
            self.warnings: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                self.errors.append(message)
            elif severity == trt.ILogger.WARNING:
                self.warnings.append(message)

    return Logger()


def make_progress_monitor(trt: Any, on_progress: OnProgress | None, stop: threading.Event) -> Any:
    """Return an ``IProgressMonitor`` that tells the steps of each phase, until it is to stop."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._steps: dict[str, int] = {}

        def phase_start(self, phase: str, _parent: str | None, steps: int) -> None:
            self._steps[phase] = steps

        def step_complete(self, phase: str, step: int) -> bool:
            if on_progress is not None:
                on_progress(phase, step + 1, self._steps[phase])
            return not stop.is_set()

        def phase_finish(self, phase: str) -> None:
            del self._steps[phase]

    return Monitor()


def make_writer(trt: Any, file: BinaryIO) -> Any:
    """Return an ``IStreamWriter`` to a file: the plan is never whole in memory a second time.

    An error of the file's is kept in the writer's ``error``: it cannot pass through TensorRT.
    """

    class Writer(trt.IStreamWriter):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IStreamWriter.__init__(self)
            self.error: OSError | None = None

        def write(self, data: bytes) -> int:
            try:
                return file.write(data)
            except OSError as error:
                self.error = error
                return 0

    return Writer()

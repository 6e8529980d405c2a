"""What any reader must keep to, whatever it is given: its time, its memory, its kinds of errors."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from hypothesis import HealthCheck, settings

EXAMPLES = int(os.environ.get("LASTTOKEN_FUZZ_EXAMPLES", "0"))
"""Inputs of each property; 0 for the few of `make test`, which are the same in each run."""
SHORT_RUN = 60
MOST_SECONDS = 10.0
MOST_BYTES = 2**29
"""Far above what the small files of these tests need, and far below any size they may claim."""


inputs = 0
"""That were tried in this process."""


class Hang(BaseException):
    """The time is over; not an Exception, so that no reader can take it for bad input."""


def fuzzed(most: int = SHORT_RUN) -> settings:
    """How many inputs a property is tried on.

    Args:
        most: In `make test`.
    """
    return settings(
        max_examples=EXAMPLES or most,
        derandomize=not EXAMPLES,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


@contextmanager
def bounded() -> Iterator[None]:
    """Let the block fail where it takes more than `MOST_SECONDS` or `MOST_BYTES` of new memory."""
    global inputs
    inputs += 1
    with open("/proc/self/statm", "rb") as statm:  # noqa: PTH123 - a hot path
        mapped = int(statm.read().split()[0]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    previous = signal.signal(signal.SIGALRM, _hang)
    resource.setrlimit(resource.RLIMIT_AS, (mapped + MOST_BYTES, hard))
    signal.setitimer(signal.ITIMER_REAL, MOST_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
        signal.signal(signal.SIGALRM, previous)


def _hang(_number: int, _frame: object) -> None:
    raise Hang(f"more than {MOST_SECONDS} s")

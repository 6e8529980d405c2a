"""What every scenario works with, and what it comes to."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lasttoken import EmbeddingClient
from lasttoken.local import LocalTriton, SupervisionOptions, Supervisor
from lasttoken_perf.errors import WrongAnswer
from lasttoken_perf.faults.load import Impact, Load, impact_of

RECOVERY_S = 120.0
BEFORE, AFTER = 40, 80
"""Right answers before a fault, and of requests sent after it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """What every scenario works with.

    Attributes:
        repository: An exported repository; not to be changed.
        model: Its ensemble.
        catalogue_name: Of the model.
        expected: Vectors of the texts of the load.
        cache_folder: Of packaged weights and Triton.
        say: Told what is being done.
    """

    repository: Path
    model: str
    catalogue_name: str
    expected: Mapping[str, NDArray[np.float32]]
    cache_folder: Path | None
    say: Callable[[str], None]

    def server(self) -> LocalTriton:
        """A server of the repository, not yet started."""
        return LocalTriton(self.repository, cache_folder=self.cache_folder)

    def load(self, url: str) -> Load:
        """Callers by gRPC."""
        return Load(lambda: EmbeddingClient(url, self.model), self.expected)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one fault came to.

    Attributes:
        fault: What was done.
        seen: What callers or operators see.
        lost: What is lost of the work.
        impact: Of the load, where there was one.
    """

    fault: str
    seen: str
    lost: str
    impact: Impact | None


def finding_of(fault: str, load: Load, *, harmed_s: float, seen: str = "") -> Finding:
    """Sum up a load that has ended.

    Args:
        fault: What was done.
        load: The callers.
        harmed_s: When it was done, on `time.monotonic`.
        seen: Told after the errors.

    Raises:
        WrongAnswer: An answer was not its text's.
    """
    impact = impact_of(load.outcomes, harmed_s=harmed_s)
    if impact.wrong:
        raise WrongAnswer(f"{fault}: {impact.wrong} answers were not their text's")
    errors = ", ".join(f"{count} {name}" for name, count in sorted(impact.errors.items()))
    told = [f"{errors}; tried again by the caller" if errors else "no error", seen]
    failed = sum(impact.errors.values())
    return Finding(
        fault=fault,
        seen="; ".join(filter(None, told)),
        lost=f"{failed} requests, told so" if failed else "nothing",
        impact=impact,
    )


@contextmanager
def supervised(stage: Stage) -> Iterator[tuple[LocalTriton, Supervisor]]:
    """A server that is started anew when it does not answer."""
    with stage.server() as server:
        supervisor = Supervisor(server, SupervisionOptions(), announce=stage.say)
        thread = threading.Thread(target=supervisor.run, daemon=True)
        thread.start()
        try:
            yield server, supervisor
        finally:
            supervisor.stop()
            thread.join(60)


def wait_until(condition: Callable[[], bool], otherwise: str) -> None:
    """Wait until something is so.

    Raises:
        WrongAnswer: With these words, when it is not within `RECOVERY_S`.
    """
    deadline = time.monotonic() + RECOVERY_S
    while not condition():
        if time.monotonic() > deadline:
            raise WrongAnswer(otherwise)
        time.sleep(0.05)

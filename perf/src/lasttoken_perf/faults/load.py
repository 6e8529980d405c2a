"""Callers that keep a server busy and note what becomes of each of their requests."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from lasttoken import LasttokenError

if TYPE_CHECKING:
    from typing_extensions import Self

RIGHT, WRONG = "right", "wrong"


class Caller(Protocol):
    """What sends requests: our client, or another way to the same server."""

    def embed(self, text: str, *, timeout_s: float) -> NDArray[np.float32]:
        """Return a text's vector, ``[dim]``."""

    def close(self) -> None:
        """End the connections."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one request.

    Attributes:
        started_s: When it was sent, on `time.monotonic`.
        ended_s: When it was answered or failed.
        result: `RIGHT`, `WRONG`, or the name of the error's class.
    """

    started_s: float
    ended_s: float
    result: str


class Load:
    """Callers in threads, each with one request at a time.

    Args:
        make_client: Makes the client that all callers share.
        expected: Vector of each text, as an undisturbed server gave it.
        callers: How many.
        timeout_s: Deadline of each request, in seconds.
        errors: What a request may end in; any other exception ends the caller, and the load.
    """

    def __init__(
        self,
        make_client: Callable[[], Caller],
        expected: Mapping[str, NDArray[np.float32]],
        *,
        callers: int = 8,
        timeout_s: float = 10.0,
        errors: tuple[type[Exception], ...] = (LasttokenError,),
    ) -> None:
        self._make_client = make_client
        self._expected = expected
        self._timeout_s = timeout_s
        self._errors = errors
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self.outcomes: list[Outcome] = []
        self._threads = [
            threading.Thread(target=self._call, args=(number,), daemon=True)
            for number in range(callers)
        ]

    def __enter__(self) -> Self:
        self._client = self._make_client()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(self._timeout_s + 30)
        assert not any(thread.is_alive() for thread in self._threads), "a caller hangs"
        self._client.close()

    def wait_for_right(self, count: int, *, after_s: float, timeout_s: float) -> None:
        """Wait until so many requests that were sent after a time have been answered right.

        Raises:
            TimeoutError: They were not.
        """
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            with self._lock:
                right = sum(o.result == RIGHT and o.started_s > after_s for o in self.outcomes)
            if right >= count:
                return
            time.sleep(0.05)
        raise TimeoutError(f"{right} of {count} requests were answered within {timeout_s:g} s")

    def _call(self, number: int) -> None:
        texts = list(self._expected)
        place = number * 7
        while not self._stop.is_set():
            text = texts[place % len(texts)]
            place += 1
            started_s = time.monotonic()
            try:
                vector = self._client.embed(text, timeout_s=self._timeout_s)
                result = RIGHT if np.array_equal(vector, self._expected[text]) else WRONG
            except self._errors as error:
                result = type(error).__name__
                time.sleep(0.05)  # as a caller that tries again
            with self._lock:
                self.outcomes.append(Outcome(started_s=started_s, ended_s=time.monotonic(),
                                             result=result))  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Impact:
    """What a fault did to the callers.

    Attributes:
        requests: Requests sent.
        right: Answered with their own text's vector, bit for bit.
        wrong: Answered with another vector.
        errors: Errors by class.
        outage_s: Longest time without a right answer, in seconds.
        p99_ms: 99th percentile of the right answers' latency.
        recovery_s: From the harm to the first right answer of a request sent after it.
    """

    requests: int
    right: int
    wrong: int
    errors: Mapping[str, int]
    outage_s: float
    p99_ms: float
    recovery_s: float


def impact_of(outcomes: list[Outcome], *, harmed_s: float = 0.0) -> Impact:
    """Sum up the outcomes of a run.

    Args:
        outcomes: Of the run.
        harmed_s: When the harm was done, on `time.monotonic`.

    Raises:
        ValueError: No request was answered right, or none that was sent after the harm.
    """
    counts = Counter(outcome.result for outcome in outcomes)
    right = sorted(outcome.ended_s for outcome in outcomes if outcome.result == RIGHT)
    if not right:
        raise ValueError(f"no request was answered right: {dict(counts)}")
    begin = min(outcome.started_s for outcome in outcomes)
    gaps = np.diff([begin, *right])
    after = [o.ended_s for o in outcomes if o.result == RIGHT and o.started_s >= harmed_s]
    if not after:
        raise ValueError("no request that was sent after the harm was answered right")
    latency = [1e3 * (o.ended_s - o.started_s) for o in outcomes if o.result == RIGHT]
    return Impact(
        requests=len(outcomes),
        right=counts.pop(RIGHT),
        wrong=counts.pop(WRONG, 0),
        errors=dict(counts),
        outage_s=float(gaps.max()),
        p99_ms=float(np.percentile(latency, 99)),
        recovery_s=min(after) - (harmed_s or begin),
    )

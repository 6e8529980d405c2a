"""Which request of a call is sent when: bounded, retried, within its time.

Pure: the clients tell it the time and what happened, and it says what to do, so that the sync and
the async client behave alike and tests need neither server nor clock.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import deque

from lasttoken.errors import (
    DeadlineExceeded,
    LasttokenError,
    ModelUnavailable,
    ServerOverloaded,
)
from lasttoken.options import RetryPolicy
from lasttoken.window import Window

_SENT_AGAIN = ("UNAVAILABLE", "CANCELLED", "NOT_FOUND")
"""Statuses of a server that cannot take a request now: down, full, stopping, or unloaded."""


class Dispatch:
    """The state of one call's requests, which are known by their numbers from 0 up.

    A request that waits for its next attempt keeps its place among those in flight, so a server
    that refuses work gets less of it.
    """

    def __init__(
        self,
        count: int,
        *,
        window: Window,
        retry: RetryPolicy,
        jitter: random.Random,
        deadline: float = math.inf,
        request_timeout_s: float = math.inf,
    ) -> None:
        """Begin a call.

        Args:
            count: Number of requests known now; `add` adds more.
            window: How many requests may be sent and not answered, or wait to be sent again.
            retry: When a refused request is sent again.
            jitter: Source of the waits' randomness.
            deadline: When the whole call must be done, on the caller's clock, in seconds.
            request_timeout_s: Time for each request with its retries, from its first sending.
        """
        self._window = window
        self._retry = retry
        self._jitter = jitter
        self._deadline = deadline
        self._request_timeout_s = request_timeout_s
        self._count = 0
        self._unsent: deque[int] = deque()
        self._attempts: dict[int, int] = {}  # of requests that were sent and are not done
        self._deadline_of: dict[int, float] = {}
        self._sent: dict[int, float] = {}  # when the attempt in flight was sent
        self._waiting: list[tuple[float, int]] = []  # heap of (due time, request)
        self.add(count)

    def add(self, count: int) -> range:
        """Add requests at the end; return their numbers."""
        added = range(self._count, self._count + count)
        self._count += count
        self._unsent.extend(added)
        return added

    @property
    def count(self) -> int:
        """Number of requests so far, answered or not."""
        return self._count

    @property
    def finished(self) -> bool:
        """Whether every request has been answered."""
        return not (self._unsent or self._sent or self._waiting)

    @property
    def hungry(self) -> bool:
        """Whether more requests could be sent than there are."""
        return self._room() > len(self._unsent)

    def remaining_s(self, request: int, now: float) -> float:
        """Time left for an attempt of a request that starts now, in seconds.

        Raises:
            DeadlineExceeded: None is left.
        """
        self._check_deadline(now)
        return max(1e-3, self._deadline_of[request] - now)

    def take(self, now: float) -> list[int]:
        """Requests to send now; they count as sent.

        Raises:
            DeadlineExceeded: The deadline has passed.
        """
        self._check_deadline(now)
        taken = []
        while self._waiting and self._waiting[0][0] <= now:
            taken.append(heapq.heappop(self._waiting)[1])
        room = self._room() - len(taken)
        while self._unsent and room > 0:
            request = self._unsent.popleft()
            self._attempts[request] = 0
            self._deadline_of[request] = min(self._deadline, now + self._request_timeout_s)
            taken.append(request)
            room -= 1
        for request in taken:
            self._attempts[request] += 1
            self._sent[request] = now
        return taken

    def wait_s(self, now: float) -> float | None:
        """How long to wait for an answer before `take` is called again, in seconds; None: ever."""
        until = min(self._deadline, self._waiting[0][0] if self._waiting else self._deadline)
        return None if until == math.inf else max(0.0, until - now)

    def answered(self, request: int, now: float, *, size_bytes: int = 0) -> None:
        """Note that a sent request of that size has its answer."""
        in_flight = len(self._sent)
        latency_s = now - self._sent.pop(request)
        del self._attempts[request], self._deadline_of[request]
        self._window.answered(size_bytes=size_bytes, latency_s=latency_s, in_flight=in_flight)

    def failed(
        self, request: int, error: LasttokenError, now: float, *, elsewhere: bool = False
    ) -> None:
        """Note that an attempt failed; arrange the next one, or give up.

        Only what met a server that is away, full or stopping is tried again.

        Args:
            request: The request.
            error: What it failed with.
            now: The time.
            elsewhere: The server could not be reached and another one may be: the request goes
                there at once, and the attempt does not count.

        Raises:
            LasttokenError: `error`, when it is final: not retryable, out of attempts, or the next
                attempt would begin after the deadline.
        """
        del self._sent[request]
        if not (isinstance(error, ModelUnavailable) and error.status in _SENT_AGAIN):
            raise error
        if isinstance(error, ServerOverloaded):
            self._window.refused(now)
        attempts = self._attempts[request]
        due = now
        if elsewhere:
            self._attempts[request] -= 1
        else:
            due += self._jitter.uniform(0.0, self._retry.longest_wait_s(attempts))
        out_of_attempts = not elsewhere and attempts >= (self._retry.max_attempts or attempts + 1)
        if out_of_attempts or due >= self._deadline_of[request]:
            raise type(error)(f"{error}, attempts: {attempts}", status=error.status) from error
        heapq.heappush(self._waiting, (due, request))

    def _room(self) -> int:
        return self._window.limit - len(self._sent) - len(self._waiting)

    def _check_deadline(self, now: float) -> None:
        if now >= self._deadline:
            unanswered = len(self._unsent) + len(self._sent) + len(self._waiting)
            raise DeadlineExceeded(
                f"the time for this call is over with {unanswered} of {self._count} "
                "requests unanswered; give more time with timeout_s, or fewer texts"
            )

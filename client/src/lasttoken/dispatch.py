"""Which request of a call is sent when: bounded, retried, within one deadline.

Pure: the clients tell it the time and what happened, and it says what to do, so that the sync and
the async client behave alike and tests need neither server nor clock.
"""

from __future__ import annotations

import heapq
import random
from collections import deque

from lasttoken.errors import DeadlineExceeded, LasttokenError, ModelUnavailable
from lasttoken.options import RetryPolicy


class Dispatch:
    """The state of one call's requests, which are known by their numbers 0 to count - 1.

    A request that waits for its next attempt keeps its place among those in flight, so a server
    that refuses work gets less of it.
    """

    def __init__(
        self,
        count: int,
        *,
        deadline: float,
        max_in_flight: int,
        retry: RetryPolicy,
        jitter: random.Random,
    ) -> None:
        """Begin a call.

        Args:
            count: Number of requests.
            deadline: When the whole call must be done, on the caller's clock, in seconds.
            max_in_flight: Most requests that are sent and not answered, or wait to be sent again.
            retry: When a refused request is sent again.
            jitter: Source of the waits' randomness.
        """
        self._deadline = deadline
        self._max_in_flight = max_in_flight
        self._retry = retry
        self._jitter = jitter
        self._unsent = deque(range(count))
        self._attempts = [0] * count
        self._sent: set[int] = set()
        self._waiting: list[tuple[float, int]] = []  # heap of (due time, request)

    @property
    def finished(self) -> bool:
        """Whether every request has been answered."""
        return not (self._unsent or self._sent or self._waiting)

    def remaining_s(self, now: float) -> float:
        """Time left for an attempt that starts now, in seconds.

        Raises:
            DeadlineExceeded: None is left.
        """
        remaining = self._deadline - now
        if remaining <= 0:
            unanswered = len(self._unsent) + len(self._sent) + len(self._waiting)
            raise DeadlineExceeded(
                f"the time for this call is over with {unanswered} of {len(self._attempts)} "
                "requests unanswered; give more time with timeout_s, or fewer texts"
            )
        return remaining

    def take(self, now: float) -> list[int]:
        """Requests to send now; they count as sent.

        Raises:
            DeadlineExceeded: The deadline has passed.
        """
        self.remaining_s(now)
        taken = []
        while self._waiting and self._waiting[0][0] <= now:
            taken.append(heapq.heappop(self._waiting)[1])
        room = self._max_in_flight - len(self._sent) - len(self._waiting) - len(taken)
        while self._unsent and room > 0:
            taken.append(self._unsent.popleft())
            room -= 1
        for request in taken:
            self._attempts[request] += 1
        self._sent.update(taken)
        return taken

    def wait_s(self, now: float) -> float:
        """How long to wait for an answer before `take` is called again, in seconds."""
        until = min(self._deadline, self._waiting[0][0] if self._waiting else self._deadline)
        return max(0.0, until - now)

    def answered(self, request: int) -> None:
        """Note that a sent request has its answer."""
        self._sent.remove(request)

    def failed(self, request: int, error: LasttokenError, now: float) -> None:
        """Note that an attempt failed; arrange the next one, or give up.

        Only UNAVAILABLE is tried again, as nothing was computed then.

        Raises:
            LasttokenError: `error`, when it is final: not retryable, out of attempts, or the next
                attempt would begin after the deadline.
        """
        self._sent.remove(request)
        attempts = self._attempts[request]
        if not (isinstance(error, ModelUnavailable) and error.status == "UNAVAILABLE"):
            raise error
        due = now + self._jitter.uniform(0.0, self._retry.longest_wait_s(attempts))
        out_of_attempts = attempts >= (self._retry.max_attempts or attempts + 1)
        if out_of_attempts or due >= self._deadline:
            raise type(error)(f"{error}, attempts: {attempts}", status=error.status) from error
        heapq.heappush(self._waiting, (due, request))

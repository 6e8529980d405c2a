"""Which request of a call is sent when: bounded, retried, within its time.

Pure: the clients tell it the time and what happened, and it says what to do, so that the sync and
the async client behave alike and tests need neither server nor clock.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from dataclasses import dataclass

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


@dataclass(slots=True)
class _Begun:
    """A request that was sent and has no answer yet.

    Attributes:
        since: When it was first sent, on the caller's clock, in seconds.
        deadline: Until when its attempts may begin, likewise.
        attempts: So many that count.
        refusal: What the latest attempt that was refused met.
    """

    since: float
    deadline: float
    attempts: int = 0
    refusal: LasttokenError | None = None

    def in_vain(self, attempt: float, now: float) -> bool:
        """Whether refusals took more of its time than the attempt begun at that time has."""
        return self.refusal is not None and attempt - self.since > now - attempt

    def refused(self, words: str = "") -> LasttokenError:
        """The error of a request that is not tried again."""
        assert self.refusal is not None
        message = f"{self.refusal}, attempts: {max(1, self.attempts)}{words}"
        return type(self.refusal)(message, status=self.refusal.status)


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
        self._begun: dict[int, _Begun] = {}  # of requests that were sent and are not done
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
            DeadlineExceeded, ModelUnavailable: None is left, as of `take`.
        """
        self._check_deadline(now)
        return max(1e-3, self._begun[request].deadline - now)

    def take(self, now: float) -> list[int]:
        """Requests to send now; they count as sent.

        Raises:
            DeadlineExceeded: The deadline has passed.
            ModelUnavailable: It has, over the refusals of a request: what refused it.
        """
        self._check_deadline(now)
        taken = []
        while self._waiting and self._waiting[0][0] <= now:
            taken.append(heapq.heappop(self._waiting)[1])
        room = self._room() - len(taken)
        while self._unsent and room > 0:
            request = self._unsent.popleft()
            deadline = min(self._deadline, now + self._request_timeout_s)
            self._begun[request] = _Begun(now, deadline)
            taken.append(request)
            room -= 1
        for request in taken:
            self._begun[request].attempts += 1
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
        del self._begun[request]
        self._window.answered(size_bytes=size_bytes, latency_s=latency_s, in_flight=in_flight)

    def failed(
        self, request: int, error: LasttokenError, now: float, *, elsewhere: bool = False
    ) -> None:
        """Note that an attempt failed; arrange the next one, or give up.

        Only what met a server that is away, full or stopping is tried again. A request whose time
        is over ends with what took most of it: with the refusals that came before the last
        attempt, or with that attempt.

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
        sent = self._sent.pop(request)
        begun = self._begun[request]
        if isinstance(error, DeadlineExceeded) and begun.in_vain(sent, now):
            raise begun.refused() from error
        if not (isinstance(error, ModelUnavailable) and error.status in _SENT_AGAIN):
            raise error
        if isinstance(error, ServerOverloaded):
            self._window.refused(now)
        begun.refusal = error
        due = now
        if not elsewhere:
            due += self._jitter.uniform(0.0, self._retry.longest_wait_s(begun.attempts))
        most = self._retry.max_attempts
        out_of_attempts = not elsewhere and most is not None and begun.attempts >= most
        if out_of_attempts or due >= begun.deadline:
            raise begun.refused() from error
        begun.attempts -= elsewhere
        heapq.heappush(self._waiting, (due, request))

    def _room(self) -> int:
        return self._window.limit - len(self._sent) - len(self._waiting)

    def _check_deadline(self, now: float) -> None:
        if now >= self._deadline:
            unanswered = len(self._unsent) + len(self._sent) + len(self._waiting)
            over = f"the time for this call is over with {unanswered} of {self._count} "
            for request, begun in self._begun.items():
                # One that waits: as if its next attempt had been due this late.
                if begun.in_vain(self._sent.get(request, now), now):
                    raise begun.refused(f"; {over}requests unanswered") from begun.refusal
            raise DeadlineExceeded(
                f"{over}requests unanswered; give more time with timeout_s, or fewer texts"
            )

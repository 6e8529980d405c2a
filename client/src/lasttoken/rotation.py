"""Which of several servers gets the next request.

Pure: told the time and what happened. Servers take turns; one that could not be reached is left
out for a while that grows, and asked again by a single request when that has passed, or when no
other server is left.
"""

from __future__ import annotations

import threading

_FIRST_REST_S = 1.0
_LONGEST_REST_S = 15.0


class Rotation:
    """The turns of servers known by their numbers 0 to count - 1; shared by threads."""

    def __init__(self, count: int) -> None:
        """Begin with `count` servers (at least 1), all of them thought well of."""
        self._lock = threading.Lock()
        self._next = 0
        self._rests_until = [0.0] * count
        self._failures = [0] * count  # in a row
        self._on_trial: set[int] = set()

    def take(self, now: float) -> int:
        """Return the server whose turn it is, on the caller's clock."""
        with self._lock:
            count = len(self._failures)
            turns = [(self._next + step) % count for step in range(count)]
            awake = [server for server in turns if self._rests_until[server] <= now]
            chosen = awake[0] if awake else min(turns, key=self._rests_until.__getitem__)
            if self._failures[chosen]:
                self._on_trial.add(chosen)
                self._rest(chosen, now)
            self._next = (chosen + 1) % count
            return chosen

    def reached(self, server: int) -> None:
        """Note that a server answered, with whatever."""
        with self._lock:
            self._failures[server] = 0
            self._rests_until[server] = 0.0
            self._on_trial.discard(server)

    def unreachable(self, server: int, now: float) -> bool:
        """Note that a server could not be reached; return whether another one may be.

        Many requests that were lost together with their server are one failure.
        """
        with self._lock:
            if not self._failures[server] or server in self._on_trial:
                self._failures[server] += 1
                self._rest(server, now)
                self._on_trial.discard(server)
            return not all(self._failures)

    def _rest(self, server: int, now: float) -> None:
        rest_s = _FIRST_REST_S * 2.0 ** min(self._failures[server] - 1, 10)
        self._rests_until[server] = now + min(_LONGEST_REST_S, rest_s)

"""How many requests a server is given at a time: more while it answers, fewer when it refuses."""

from __future__ import annotations

_FIRST = 8.0


class InFlightLimit:
    """Additive increase, multiplicative decrease, with a slow start.

    Source: RFC 5681, whose congestion window this is, with a refusal for the loss of a segment.
    """

    def __init__(self, *, most: int) -> None:
        """Begin with a few, and never allow more than `most`."""
        self._most = float(most)
        self._limit = min(_FIRST, self._most)
        self._threshold = self._most

    @property
    def requests(self) -> int:
        """Requests that may be on their way now, at least one."""
        return int(self._limit)

    def answered(self) -> None:
        """Note an answer."""
        step = 1.0 if self._limit < self._threshold else 1.0 / self._limit
        self._limit = min(self._most, self._limit + step)

    def overloaded(self) -> None:
        """Note a refusal of a server that has too much to do."""
        self._threshold = max(1.0, self._limit / 2)
        self._limit = self._threshold

    def lost(self) -> None:
        """Note that the server is away: one request at a time finds out when it is back."""
        self._threshold = max(self._threshold, min(_FIRST, self._most))
        self._limit = 1.0

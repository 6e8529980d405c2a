"""How many requests of a call are in flight: as many as help, found while it works.

Pure, told the time. Additive increase, multiplicative decrease: the limit grows while answers come
as fast as they did, stops growing when the server lets them wait, shrinks when they wait long and
is halved when the server refuses one.
"""

from __future__ import annotations

import threading

_START = 4
_FEW_WAITING, _MANY_WAITING = 4.0, 8.0
"""Requests of ours that wait in the server: below, one more is sent; above, one fewer."""
_FORGET = 1.005
"""The best latency is forgotten at this rate an answer, as a server may change."""


class Window:
    """The limit that the calls of one client have learned; shared by its threads.

    Each call is held to the limit by itself. How many requests wait in the server is estimated as
    in TCP Vegas, `in_flight * (1 - best latency / latency)`, with a best latency for each power of
    two of the request's bytes.

    Source: Brakmo and Peterson, TCP Vegas, IEEE JSAC 13(8), 1995; Jacobson, SIGCOMM 1988.
    """

    def __init__(self, most: int) -> None:
        """Begin, with a limit that is never above `most`."""
        self._lock = threading.Lock()
        self._most = float(most)
        self._limit = float(min(_START, most))
        self._starting = True  # doubling, until the server first lets something wait
        self._best_s: dict[int, float] = {}
        self._latency_s = 0.0
        self._cut_at = float("-inf")

    @property
    def limit(self) -> int:
        """Requests that one call may have in flight, at least 1."""
        return int(self._limit)

    def answered(self, *, size_bytes: int, latency_s: float, in_flight: int) -> None:
        """Note an answer.

        Args:
            size_bytes: Size of the request.
            latency_s: From its sending to its answer, in seconds.
            in_flight: Requests of its call in flight then, itself included.
        """
        size_class = size_bytes.bit_length()
        with self._lock:
            best_s = min(latency_s, self._best_s.get(size_class, latency_s) * _FORGET)
            self._best_s[size_class] = best_s
            self._latency_s = latency_s
            waiting = in_flight * (1.0 - best_s / latency_s) if latency_s > 0 else 0.0
            if waiting > _FEW_WAITING:
                self._starting = False
            if waiting > _MANY_WAITING:
                self._limit = max(1.0, self._limit - 1.0 / self._limit)
            elif waiting <= _FEW_WAITING and in_flight >= self.limit:  # else it is not in use
                self._limit += 1.0 if self._starting else 1.0 / self._limit
                self._limit = min(self._limit, self._most)

    def refused(self, now: float) -> None:
        """Note that the server refused a request, which halves the limit.

        Refusals of requests that were sent before the last cut could take effect count once.
        """
        with self._lock:
            self._starting = False
            if now - self._cut_at > self._latency_s:
                self._limit = max(1.0, self._limit / 2.0)
                self._cut_at = now

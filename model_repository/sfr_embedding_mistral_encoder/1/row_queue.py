"""The bounded queue of rows, in classes. Pure and synchronous: the scheduler locks around it.

Probes pass all others, one batch of them at most before one of what else waits. Interactive rows
pass bulk ones, which have every ``bulk_every``-th batch while they wait. A class forms its batches
by itself (class_queue.py).
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import chain

from batch_planner import BatchLimits, CostModel
from class_queue import ClassQueue
from encode_errors import DeadlineExpired, EncodeError, InvalidRows, Overloaded, RequestCancelled
from encode_request import EncodeRequest, Row, ServiceClass

_log = logging.getLogger(__name__)

_PROBE_TOKENS = 128
"""Longest text of a probe."""
_WAITING_PROBE_TOKENS = 1024
"""Most tokens of probes that wait, which is more than an encoder that works ever leaves."""

Dropped = tuple[EncodeRequest, EncodeError]
"""A request that was given up, and the reason."""


def is_bulk(rows: list[Row]) -> bool:
    """Whether a batch, which has rows of one class only, is bulk."""
    return rows[0].request.service_class is ServiceClass.BULK


def _is_cancelled(request: EncodeRequest) -> bool:
    try:
        return request.is_cancelled()
    except Exception:  # noqa: BLE001 - one caller's broken channel is not another's
        _log.exception("whether a request was cancelled could not be asked; it is computed")
        return False


class RowQueue:
    """Admits requests, keeps their rows, and forms batches.

    Args:
        limits: Limits of a batch.
        cost: Cost model of a batch.
        max_queue_tokens: Most tokens waiting.
        bulk_queue_fraction: Share of them that bulk may take.
        bulk_every: While bulk rows wait, one batch in this many is bulk.
    """

    def __init__(
        self,
        limits: BatchLimits,
        cost: CostModel,
        *,
        max_queue_tokens: int,
        bulk_queue_fraction: float,
        bulk_every: int,
    ) -> None:
        self._limits = limits
        # As efficient on one thread as a whole one on several, and ready as soon as that.
        self._stream_limits = replace(limits, preferred_tokens=-(-limits.preferred_tokens // 2))
        self._classes = {member: ClassQueue(limits, cost) for member in ServiceClass}
        self._max_queue_tokens = max_queue_tokens
        self._max_bulk_tokens = int(max_queue_tokens * bulk_queue_fraction)
        self._bulk_every = bulk_every
        self._interactive_batches = 0
        self._probes_passed = False
        self._arrivals = 0

    def __len__(self) -> int:
        return sum(len(queue.rows) for queue in self._classes.values())

    @property
    def fills_a_batch(self) -> bool:
        """Whether a batch formed now is full; rows that share tokens could make it fuller."""
        return self.tokens >= self._limits.preferred_tokens

    def fills_streams(self, streams: int) -> bool:
        """Whether there is a full batch for each of so many streams; a long row is one's alone."""
        each = self._stream_limits.preferred_tokens
        left = streams * each
        for row in chain.from_iterable(queue.rows for queue in self._classes.values()):
            left -= min(len(row.tokens), each)
            if left <= 0:
                return True
        return False

    @property
    def tokens(self) -> int:
        """Tokens waiting."""
        return sum(queue.tokens for queue in self._classes.values())

    def add(self, request: EncodeRequest) -> None:
        """Admit a request whole, or refuse it whole.

        Raises:
            InvalidRows: It could never be admitted.
            Overloaded: There is no room for it now.
        """
        if request.service_class is ServiceClass.PROBE:
            self._check_probe(request)
            self._enqueue(request)
            return
        queue = self._classes[request.service_class]
        bulk = request.service_class is ServiceClass.BULK
        limit = self._max_bulk_tokens if bulk else self._max_queue_tokens
        tokens = request.tokens
        if tokens > limit:
            raise InvalidRows(
                f"the request has {tokens} tokens, more than the {limit} that may wait at once; "
                "send fewer texts a request"
            )
        bulk_is_full = bulk and queue.tokens + tokens > limit
        if bulk_is_full or self.tokens + tokens > self._max_queue_tokens:
            raise Overloaded(
                f"overloaded: {self.tokens} of {self._max_queue_tokens} tokens are waiting and the "
                f"request has {tokens}; try again later"
            )
        self._enqueue(request)

    @property
    def interactive_waits(self) -> bool:
        """Whether rows are waiting that pass bulk ones."""
        return bool(self._ahead_of_bulk().rows)

    def next_batch(
        self, now_s: float, *, in_stream: bool = False
    ) -> tuple[list[Row], list[Dropped]]:
        """Take the rows of the next batch, none if nothing is left to compute.

        Args:
            now_s: Time on the clock of the requests' deadlines.
            in_stream: It is one stream's, and half as large.

        Returns:
            The rows, and the requests that were given up with the reason, which the caller answers.
        """
        limits = self._stream_limits if in_stream else self._limits
        return self._take(now_s, self._next_class, self._count, limits)

    def next_interactive_batch(self, now_s: float) -> tuple[list[Row], list[Dropped]]:
        """Take rows that pass bulk ones, as `next_batch` does; no turn of bulk's comes nearer."""

        def ahead() -> ClassQueue | None:
            queue = self._ahead_of_bulk()
            return queue if queue.rows else None

        return self._take(now_s, ahead, lambda _: None, self._limits)

    def _check_probe(self, request: EncodeRequest) -> None:
        tokens, waiting = request.tokens, self._classes[ServiceClass.PROBE].tokens
        if len(request.rows) > 1 or tokens > _PROBE_TOKENS:
            raise InvalidRows(
                f"the probe has {len(request.rows)} texts of {tokens} tokens in all; a request of "
                f"the class 'probe' is one text of at most {_PROBE_TOKENS} tokens"
            )
        if waiting + tokens > _WAITING_PROBE_TOKENS:
            raise Overloaded(f"overloaded: {waiting} tokens of probes are waiting")

    def _enqueue(self, request: EncodeRequest) -> None:
        for row in request.rows:
            row.arrival = self._arrivals
            self._arrivals += 1
            self._classes[request.service_class].add(row)

    def _ahead_of_bulk(self) -> ClassQueue:
        probes = self._classes[ServiceClass.PROBE]
        return probes if probes.rows else self._classes[ServiceClass.INTERACTIVE]

    def _take(
        self,
        now_s: float,
        choose: Callable[[], ClassQueue | None],
        count: Callable[[ClassQueue], None],
        limits: BatchLimits,
    ) -> tuple[list[Row], list[Dropped]]:
        dropped = self.drop_expired(now_s)
        while True:
            queue = choose()
            if queue is None:
                return [], dropped
            rows = queue.plan(limits)
            cancelled = {id(row.request): row.request for row in rows}
            cancelled = {k: request for k, request in cancelled.items() if _is_cancelled(request)}
            if not cancelled:
                break
            for request in cancelled.values():
                dropped.append((request, RequestCancelled("the caller cancelled the request")))
            self.remove(cancelled.values())
        count(queue)
        queue.take(rows, limits)
        return rows, dropped

    def clear(self) -> list[EncodeRequest]:
        """Remove everything; the requests removed, each once."""
        requests = {
            id(row.request): row.request for queue in self._classes.values() for row in queue.rows
        }
        self.remove(requests.values())
        return list(requests.values())

    def drop_expired(self, now_s: float) -> list[Dropped]:
        """Remove the requests whose deadline has passed; the caller answers them.

        Args:
            now_s: Time on the clock of the requests' deadlines.
        """
        expired = {
            id(row.request): row.request
            for queue in self._classes.values()
            for row in queue.rows
            if row.request.deadline_s is not None and row.request.deadline_s <= now_s
        }
        self.remove(expired.values())
        message = "deadline exceeded: the request waited past its timeout and was not computed"
        return [(request, DeadlineExpired(message)) for request in expired.values()]

    def remove(self, requests: Iterable[EncodeRequest]) -> None:
        """Forget the rows of these requests."""
        gone = set(map(id, requests))
        if not gone:
            return
        for queue in self._classes.values():
            queue.rows = deque(row for row in queue.rows if id(row.request) not in gone)
            queue.tokens = sum(len(row.tokens) for row in queue.rows)

    def _next_class(self) -> ClassQueue | None:
        probes, interactive, bulk = (
            self._classes[ServiceClass.PROBE], self._classes[ServiceClass.INTERACTIVE],
            self._classes[ServiceClass.BULK],
        )  # fmt: skip
        if probes.rows and not (self._probes_passed and (interactive.rows or bulk.rows)):
            return probes
        if interactive.rows and bulk.rows:
            bulk_is_due = self._interactive_batches >= self._bulk_every - 1
            return bulk if bulk_is_due else interactive
        if interactive.rows:
            return interactive
        return bulk if bulk.rows else None

    def _count(self, queue: ClassQueue) -> None:
        self._probes_passed = queue is self._classes[ServiceClass.PROBE]
        if self._probes_passed:
            return
        bulk = self._classes[ServiceClass.BULK]
        waiting_bulk = queue is not bulk and bool(bulk.rows)
        self._interactive_batches = self._interactive_batches + 1 if waiting_bulk else 0

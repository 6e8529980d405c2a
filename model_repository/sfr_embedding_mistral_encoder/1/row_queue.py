"""The bounded queue of rows, in two classes. Pure and synchronous: the scheduler locks around it.

Order within a class: the oldest row is in every batch; among the ``_WINDOW_BATCHES`` batches' worth
of oldest rows, rows of similar length join it; and a row whose turn has come is served in order of
arrival. The turn is twice the batches that the tokens before it need (a batch filled in order of
arrival may stay half empty), plus ``_OVERTAKING_BATCHES``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from itertools import islice

import numpy as np
from batch_planner import BatchLimits, CostModel, choose_rows
from encode_errors import DeadlineExpired, EncodeError, InvalidRows, Overloaded, RequestCancelled
from encode_request import EncodeRequest, Row, ServiceClass

_WINDOW_BATCHES = 8
_OVERTAKING_BATCHES = 8
_MAX_WINDOW_ROWS = 4096

Dropped = tuple[EncodeRequest, EncodeError]
"""A request that was given up, and the reason."""


def is_bulk(rows: list[Row]) -> bool:
    """Whether a batch, which has rows of one class only, is bulk."""
    return rows[0].request.service_class is ServiceClass.BULK


class _ClassQueue:
    """Rows of one class in order of arrival."""

    def __init__(self, limits: BatchLimits, cost: CostModel) -> None:
        self.rows: deque[Row] = deque()
        self.tokens = 0
        self._limits = limits
        self._cost = cost
        self._batches = 0
        self._last_turn = 0

    def add(self, row: Row) -> None:
        batches_ahead = -(-self.tokens // self._limits.preferred_tokens)
        row.turn = self._batches + 2 * batches_ahead + _OVERTAKING_BATCHES
        row.turn = self._last_turn = max(row.turn, self._last_turn)
        self.rows.append(row)
        self.tokens += len(row.tokens)

    def plan(self) -> list[Row]:
        """Return the rows of the next batch, which stay in the queue."""
        overdue = [row for row in islice(self.rows, self._limits.max_rows) if self._is_overdue(row)]
        if overdue:
            fitting, tokens = overdue[:1], len(overdue[0].tokens)
            longest = tokens
            for row in overdue[1:]:
                tokens += len(row.tokens)
                longest = max(longest, len(row.tokens))
                computed = self._cost.computed_tokens(tokens, len(fitting) + 1, longest)
                if computed > self._limits.preferred_tokens:
                    break
                fitting.append(row)
            return fitting
        window: list[Row] = []
        tokens = 0
        for row in islice(self.rows, _MAX_WINDOW_ROWS):
            tokens += len(row.tokens)
            if window and tokens > _WINDOW_BATCHES * self._limits.preferred_tokens:
                break
            window.append(row)
        lengths = np.fromiter((len(row.tokens) for row in window), np.int64, len(window))
        return [window[index] for index in choose_rows(lengths, self._limits, self._cost)]

    def _is_overdue(self, row: Row) -> bool:
        return row.turn <= self._batches

    def take(self, rows: list[Row]) -> None:
        """Remove planned rows."""
        taken = set(map(id, rows))
        self.rows = deque(row for row in self.rows if id(row) not in taken)
        self.tokens -= sum(len(row.tokens) for row in rows)
        self._batches += 1


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
        self._classes = {member: _ClassQueue(limits, cost) for member in ServiceClass}
        self._max_queue_tokens = max_queue_tokens
        self._max_bulk_tokens = int(max_queue_tokens * bulk_queue_fraction)
        self._bulk_every = bulk_every
        self._interactive_batches = 0
        self._arrivals = 0

    def __len__(self) -> int:
        return sum(len(queue.rows) for queue in self._classes.values())

    @property
    def fills_a_batch(self) -> bool:
        """Whether a batch formed now is as full as waiting could make it."""
        return self.tokens >= self._limits.preferred_tokens

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
        for row in request.rows:
            row.arrival = self._arrivals
            self._arrivals += 1
            queue.add(row)

    @property
    def interactive_waits(self) -> bool:
        """Whether interactive rows are waiting."""
        return bool(self._classes[ServiceClass.INTERACTIVE].rows)

    def next_batch(self, now_s: float) -> tuple[list[Row], list[Dropped]]:
        """Take the rows of the next batch, none if nothing is left to compute.

        Args:
            now_s: Time on the clock of the requests' deadlines.

        Returns:
            The rows, and the requests that were given up with the reason, which the caller answers.
        """
        return self._take(now_s, self._next_class, self._count)

    def next_interactive_batch(self, now_s: float) -> tuple[list[Row], list[Dropped]]:
        """Take interactive rows as `next_batch` does; bulk does not get nearer to its turn."""
        interactive = self._classes[ServiceClass.INTERACTIVE]
        return self._take(now_s, lambda: interactive if interactive.rows else None, lambda _: None)

    def _take(
        self,
        now_s: float,
        choose: Callable[[], _ClassQueue | None],
        count: Callable[[_ClassQueue], None],
    ) -> tuple[list[Row], list[Dropped]]:
        dropped = self._drop_expired(now_s)
        while True:
            queue = choose()
            if queue is None:
                return [], dropped
            rows = queue.plan()
            cancelled = {id(row.request): row.request for row in rows}
            cancelled = {k: request for k, request in cancelled.items() if request.is_cancelled()}
            if not cancelled:
                break
            for request in cancelled.values():
                dropped.append((request, RequestCancelled("the caller cancelled the request")))
            self.remove(cancelled.values())
        count(queue)
        queue.take(rows)
        return rows, dropped

    def clear(self) -> list[EncodeRequest]:
        """Remove everything; the requests removed, each once."""
        requests = {
            id(row.request): row.request for queue in self._classes.values() for row in queue.rows
        }
        self.remove(requests.values())
        return list(requests.values())

    def _drop_expired(self, now_s: float) -> list[Dropped]:
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

    def _next_class(self) -> _ClassQueue | None:
        interactive, bulk = (
            self._classes[ServiceClass.INTERACTIVE], self._classes[ServiceClass.BULK],
        )  # fmt: skip
        if interactive.rows and bulk.rows:
            bulk_is_due = self._interactive_batches >= self._bulk_every - 1
            return bulk if bulk_is_due else interactive
        if interactive.rows:
            return interactive
        return bulk if bulk.rows else None

    def _count(self, queue: _ClassQueue) -> None:
        bulk = self._classes[ServiceClass.BULK]
        waiting_bulk = queue is not bulk and bool(bulk.rows)
        self._interactive_batches = self._interactive_batches + 1 if waiting_bulk else 0

"""The rows of one class, and which of them make its next batch. The queue that owns it locks.

The oldest row is in every batch; among the ``_WINDOW_BATCHES`` batches' worth of oldest rows, rows
of similar length join it; and a row whose turn has come is served in order of arrival. The turn is
twice the batches that the tokens before it need (a batch filled in order of arrival may stay half
empty), plus ``_OVERTAKING_BATCHES``. A batch of smaller limits counts for as much less.
"""

from __future__ import annotations

from collections import deque
from itertools import islice

import numpy as np
from batch_planner import BatchLimits, CostModel, choose_rows
from encode_request import Row
from numpy.typing import NDArray
from shared_prefixes import shared_with_first

_WINDOW_BATCHES = 8
_OVERTAKING_BATCHES = 8
_MAX_WINDOW_ROWS = 4096


class ClassQueue:
    """Rows of one class in order of arrival."""

    def __init__(self, limits: BatchLimits, cost: CostModel) -> None:
        self.rows: deque[Row] = deque()
        self.tokens = 0
        self._limits = limits
        self._cost = cost
        self._batches = 0.0
        self._last_turn = 0.0

    def add(self, row: Row) -> None:
        """Put a row at the end, and set its turn."""
        batches_ahead = -(-self.tokens // self._limits.preferred_tokens)
        row.turn = self._batches + 2 * batches_ahead + _OVERTAKING_BATCHES
        row.turn = self._last_turn = max(row.turn, self._last_turn)
        self.rows.append(row)
        self.tokens += len(row.tokens)

    def plan(self, limits: BatchLimits) -> list[Row]:
        """Return the rows of the next batch, which stay in the queue.

        Args:
            limits: Of this batch: the queue's own, or smaller ones.
        """
        overdue = [row for row in islice(self.rows, limits.max_rows) if self._is_overdue(row)]
        if overdue:
            return self._in_order(overdue, limits)
        window: list[Row] = []
        tokens = 0
        for row in islice(self.rows, _MAX_WINDOW_ROWS):
            tokens += len(row.tokens)
            if window and tokens > _WINDOW_BATCHES * self._limits.preferred_tokens:
                break
            window.append(row)
        lengths = np.fromiter((len(row.tokens) for row in window), np.int64, len(window))
        chosen = choose_rows(lengths, limits, self._cost, self._shared(window))
        return [window[index] for index in chosen]

    def _shared(self, rows: list[Row]) -> NDArray[np.int64] | None:
        """Tokens of each row that the batch of the first one has already."""
        if not self._cost.shares_prefixes or len(rows) == 1:
            return None
        return shared_with_first([row.tokens for row in rows])

    def _in_order(self, rows: list[Row], limits: BatchLimits) -> list[Row]:
        """Fill a batch with the first rows."""
        shared = self._shared(rows)
        tokens = real_tokens = longest = 0
        for index, row in enumerate(rows):
            length = len(row.tokens)
            real_tokens += length
            tokens += length if shared is None else length - int(shared[index])
            longest = max(longest, length)
            computed = self._cost.computed_tokens(tokens, index + 1, longest)
            too_many = real_tokens > limits.max_real_tokens
            if index and (computed > limits.preferred_tokens or too_many):
                return rows[:index]
        return rows

    def _is_overdue(self, row: Row) -> bool:
        return row.turn <= self._batches

    def take(self, rows: list[Row], limits: BatchLimits) -> None:
        """Remove rows that were planned with these limits."""
        taken = set(map(id, rows))
        self.rows = deque(row for row in self.rows if id(row) not in taken)
        self.tokens -= sum(len(row.tokens) for row in rows)
        self._batches += limits.preferred_tokens / self._limits.preferred_tokens

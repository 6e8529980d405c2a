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
            fitting, tokens = overdue[:1], len(overdue[0].tokens)
            longest = tokens
            for row in overdue[1:]:
                tokens += len(row.tokens)
                longest = max(longest, len(row.tokens))
                computed = self._cost.computed_tokens(tokens, len(fitting) + 1, longest)
                if computed > limits.preferred_tokens:
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
        shared = None
        if self._cost.shares_prefixes and len(window) > 1:
            shared = shared_with_first([row.tokens for row in window])
        return [window[index] for index in choose_rows(lengths, limits, self._cost, shared)]

    def _is_overdue(self, row: Row) -> bool:
        return row.turn <= self._batches

    def take(self, rows: list[Row], limits: BatchLimits) -> None:
        """Remove rows that were planned with these limits."""
        taken = set(map(id, rows))
        self.rows = deque(row for row in self.rows if id(row) not in taken)
        self.tokens -= sum(len(row.tokens) for row in rows)
        self._batches += limits.preferred_tokens / self._limits.preferred_tokens

"""Which of the waiting rows make the next batch.

The cost of a batch in token equivalents is

    overhead + tokens + attention_cell_cost * rows * longest_row ** 2

since token-wise operators run on the packed tokens and attention on rows gathered to the longest
one. Where the graph is padded, token-wise operators run on ``rows * longest_row`` tokens too; where
rows share what they begin with, on fewer than the rows have. The batch always contains the oldest
row and, around it in order of length, the run of rows that makes the cost of a real token lowest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

_Counts = TypeVar("_Counts", int, NDArray[np.int64])

_LONGEST_CANDIDATES = 64
"""How many candidates for the longest row are tried; bounds the time of a plan."""
MOST_REAL_TOKENS = 2
"""Times the preferred tokens: attention takes memory for every row's tokens, shared or not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLimits:
    """Limits of one batch.

    Attributes:
        preferred_tokens: Rows are put together up to this many computed tokens.
        max_rows: Most rows.
    """

    preferred_tokens: int
    max_rows: int

    @property
    def max_real_tokens(self) -> int:
        """Most tokens of all rows, when shared ones count in every row."""
        return MOST_REAL_TOKENS * self.preferred_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class CostModel:
    """Cost of a batch, in token equivalents (see the module's docstring).

    Attributes:
        attention_cell_cost: Of one attention cell.
        overhead_tokens: Of a batch, whatever is in it.
        padded: Whether every operator sees rows as long as the longest.
        shares_prefixes: Whether tokens with which several rows begin are computed once.
    """

    attention_cell_cost: float
    overhead_tokens: float
    padded: bool = False
    shares_prefixes: bool = False

    def computed_tokens(self, tokens: _Counts, rows: _Counts, longest: _Counts) -> _Counts:
        """Tokens that are computed for so many rows, of so many different tokens in all."""
        return rows * longest if self.padded else tokens


def choose_rows(
    lengths: NDArray[np.int64],
    limits: BatchLimits,
    cost: CostModel,
    shared: NDArray[np.int64] | None = None,
) -> NDArray[np.int64]:
    """Choose the rows of the next batch.

    Args:
        lengths: ``[n]`` lengths in order of arrival, n at least 1.
        limits: The batch's limits; a first row longer than they allow goes alone.
        cost: The cost model.
        shared: ``[n]`` tokens that each row begins with as the oldest does, none of the oldest
            itself; None for none.

    Returns:
        Indices into ``lengths``, 0 among them, in order of length. Of rows of equal length the
        older ones are chosen first.
    """
    if len(lengths) == 1:  # the usual case of a server that is not busy
        return np.zeros(1, np.int64)
    oldest = lengths[0]
    arrival = np.arange(len(lengths))
    # Shorter rows are taken from the end of their group, so the oldest must stand there.
    order = np.lexsort((np.where(lengths < oldest, -arrival, arrival), lengths))
    seed = int(np.flatnonzero(order == 0)[0])
    ordered = lengths[order]
    own = ordered if shared is None else ordered - shared[order]
    real_before = np.concatenate(([0], np.cumsum(ordered)))  # tokens before each place
    before = np.concatenate(([0], np.cumsum(own)))  # tokens to compute, likewise

    # A batch is the run first..last of the order, with first <= seed <= last.
    last_limit = int(np.searchsorted(before, before[seed] + limits.preferred_tokens, "right")) - 2
    most_real_before = real_before[seed] + limits.max_real_tokens
    last_real = int(np.searchsorted(real_before, most_real_before, "right")) - 2
    last_limit = max(seed, min(last_limit, last_real, seed + limits.max_rows - 1))
    first_limit = int(np.searchsorted(before, before[seed + 1] - limits.preferred_tokens, "left"))
    first_limit = min(seed, max(first_limit, seed - limits.max_rows + 1, 0))
    lasts = np.unique(
        np.linspace(seed, last_limit, min(_LONGEST_CANDIDATES, last_limit - seed + 1)).astype(int)
    )
    firsts = np.arange(first_limit, seed + 1)

    tokens = before[lasts + 1][:, None] - before[firsts][None, :]
    real_tokens = real_before[lasts + 1][:, None] - real_before[firsts][None, :]
    rows = (lasts + 1)[:, None] - firsts[None, :]
    longest = ordered[lasts][:, None]
    computed = cost.computed_tokens(tokens, rows, longest)
    cells = rows * longest.astype(float) ** 2
    per_token = (cost.overhead_tokens + computed + cost.attention_cell_cost * cells) / real_tokens
    allowed = (computed <= limits.preferred_tokens) & (rows <= limits.max_rows)
    allowed &= real_tokens <= limits.max_real_tokens
    allowed[0, -1] = True  # the oldest row alone
    per_token[~allowed] = np.inf
    best_last, best_first = np.unravel_index(int(np.argmin(per_token)), per_token.shape)
    chosen: NDArray[np.int64] = order[firsts[best_first] : lasts[best_last] + 1]
    return chosen

"""How much an engine computes for a batch, padding included."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputedWork:
    """What one or several runs of an engine computed.

    Attributes:
        tokens: Tokens that passed the token-wise operators.
        attention_cells: Pairs of query and key.
        shared_tokens: Tokens of the rows that did not have to be computed, since another row of the
            same run begins with the same ones.
        kept_tokens: Tokens of the rows whose keys and values were kept from an earlier run.
    """

    tokens: int
    attention_cells: int
    shared_tokens: int = 0
    kept_tokens: int = 0

    def __add__(self, other: ComputedWork) -> ComputedWork:
        return ComputedWork(
            tokens=self.tokens + other.tokens,
            attention_cells=self.attention_cells + other.attention_cells,
            shared_tokens=self.shared_tokens + other.shared_tokens,
            kept_tokens=self.kept_tokens + other.kept_tokens,
        )


def packed_work(
    input_ids: NDArray[np.int32], row_lengths: NDArray[np.int32], *, kept_tokens: int = 0
) -> ComputedWork:
    """Work of the packed graph: only attention sees rows as long as the longest.

    Args:
        input_ids: ``[T]`` tokens that pass the token-wise operators.
        row_lengths: ``[B]`` tokens of each row.
        kept_tokens: Tokens that need not pass them.
    """
    tokens, longest = len(input_ids), int(row_lengths.max())
    return ComputedWork(
        tokens=tokens,
        attention_cells=len(row_lengths) * longest * longest,
        shared_tokens=int(row_lengths.sum()) - tokens - kept_tokens,
        kept_tokens=kept_tokens,
    )


def padded_work(_input_ids: NDArray[np.int32], row_lengths: NDArray[np.int32]) -> ComputedWork:
    """Work of a padded graph: every row is as long as the longest throughout.

    Args:
        _input_ids: Make no difference.
        row_lengths: ``[B]`` tokens of each row.
    """
    rows, longest = len(row_lengths), int(row_lengths.max())
    return ComputedWork(tokens=rows * longest, attention_cells=rows * longest * longest)

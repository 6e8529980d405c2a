"""Rows that begin alike have the tokens that they share computed once.

A token that sees only what stands before it has the same hidden states in every row that begins
with the same tokens: all queries of one instruction, all texts with one beginning of sequence, a
text that was sent twice. The packed tokens hold each such prefix once; only attention, whose rows
are gathered, shows it to each of its rows. The vectors are bitwise the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SharedRows:
    """The rows of a batch, with T tokens of which no two follow the same ones.

    Attributes:
        input_ids: ``[T]`` int32.
        token_of_slot: ``[B, S]`` int32, the index in ``input_ids`` of the token in each slot of a
            row; behind the row's end that of its last token. S is the longest row.
        slot_of_token: ``[T]`` int32, a slot of each token in the flattened ``[B * S]``.
    """

    input_ids: NDArray[np.int32]
    token_of_slot: NDArray[np.int32]
    slot_of_token: NDArray[np.int32]


def share_prefixes(input_ids: NDArray[np.int32], row_lengths: NDArray[np.int32]) -> SharedRows:
    """Find the tokens that have to be computed.

    Args:
        input_ids: ``[N]`` tokens of all rows back to back.
        row_lengths: ``[B]`` tokens of each row, each at least 1, summing to N.
    """
    if len(row_lengths) == 1:
        tokens = np.arange(len(input_ids), dtype=np.int32)
        return SharedRows(input_ids=input_ids, token_of_slot=tokens[None, :], slot_of_token=tokens)
    rows = np.split(input_ids, np.cumsum(row_lengths)[:-1])
    # In the order of a dictionary a row shares most with the one before it.
    order = np.array(sorted(range(len(rows)), key=lambda row: rows[row].tobytes()), np.int32)
    lengths = row_lengths[order][:, None]  # [B, 1]
    slots = np.arange(int(row_lengths.max()), dtype=np.int32)
    is_token = slots < lengths  # [B, S]
    words = np.zeros(is_token.shape, np.int32)
    words[is_token] = np.concatenate([rows[row] for row in order])

    same = (words[1:] == words[:-1]) & is_token[1:] & is_token[:-1]
    is_shared = np.zeros_like(is_token)
    is_shared[1:] = np.logical_and.accumulate(same, axis=1)
    is_first = is_token & ~is_shared
    numbers = np.cumsum(is_first, dtype=np.int32).reshape(is_first.shape) - 1
    # A shared token is that of the row before, or of the row that it is shared with there.
    places = np.arange(len(rows), dtype=np.int32)[:, None]
    first_places = np.maximum.accumulate(np.where(is_first, places, 0), axis=0)
    shown = np.minimum(slots, lengths - 1)  # [B, S]
    token_of_slot = np.empty_like(words)
    token_of_slot[order] = numbers[first_places[places, shown], shown]
    slot_of_word = order[:, None] * len(slots) + slots
    return SharedRows(
        input_ids=words[is_first],
        token_of_slot=token_of_slot,
        slot_of_token=slot_of_word[is_first].astype(np.int32),
    )


def shared_with_first(rows: list[NDArray[np.int32]]) -> NDArray[np.int64]:
    """Count the tokens that each row begins with as the first row does: ``[rows]``, first 0.

    Args:
        rows: ``[length]`` int32 each, at least one token.
    """
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    starts = np.cumsum(lengths) - lengths
    tokens = np.concatenate(rows)
    places = np.arange(len(tokens)) - np.repeat(starts, lengths)
    first = rows[0]
    differs = places >= len(first)
    differs |= tokens != first[np.minimum(places, len(first) - 1)]
    ends = np.where(differs, places, np.repeat(lengths, lengths))
    shared: NDArray[np.int64] = np.minimum.reduceat(ends, starts)
    shared[0] = 0
    return shared

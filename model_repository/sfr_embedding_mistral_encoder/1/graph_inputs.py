"""The inputs of a packed graph of either form: its rows share tokens, or they do not."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from shared_prefixes import share_prefixes

PLAIN_INPUTS = ("input_ids", "row_lengths", "slots")
SHARED_INPUTS = ("input_ids", "row_lengths", "token_of_slot", "slot_of_token")


def has_shared_inputs(names: Iterable[str]) -> bool:
    """Tell by the names of a graph's inputs whether its rows share tokens."""
    return "token_of_slot" in names


def graph_inputs(
    input_ids: NDArray[np.int32], row_lengths: NDArray[np.int32], *, shares_prefixes: bool
) -> dict[str, NDArray[np.int32]]:
    """Return a batch's inputs by name.

    Args:
        input_ids: ``[N]`` tokens of all rows back to back.
        row_lengths: ``[B]`` tokens of each row, each at least 1, summing to N.
        shares_prefixes: Whether the graph has `SHARED_INPUTS`, see shared_prefixes.py, and not
            `PLAIN_INPUTS`.

    Returns:
        Either ``input_ids [N]``, ``row_lengths [B]`` and ``slots [S]``, of which only the shape
        counts, S being the longest row; or ``input_ids [T]`` with T of the N tokens,
        ``row_lengths [B]``, ``token_of_slot [B, S]`` and ``slot_of_token [T]``. All int32.
    """
    if not shares_prefixes:
        slots = np.zeros(int(row_lengths.max()), np.int32)
        return {"input_ids": input_ids, "row_lengths": row_lengths, "slots": slots}
    shared = share_prefixes(input_ids, row_lengths)
    return {
        "input_ids": shared.input_ids,
        "row_lengths": row_lengths,
        "token_of_slot": shared.token_of_slot,
        "slot_of_token": shared.slot_of_token,
    }

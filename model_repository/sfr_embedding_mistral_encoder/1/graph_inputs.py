"""The inputs of a packed graph: its rows share tokens, and begin with kept ones, or do not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from kept_prefixes import Beginning, KeptPrefix
from numpy.typing import NDArray
from shared_prefixes import share_prefixes

PLAIN_INPUTS = ("input_ids", "row_lengths", "slots")
SHARED_INPUTS = ("input_ids", "row_lengths", "token_of_slot", "slot_of_token")
KEPT_INPUTS = (*SHARED_INPUTS, "kept", "to_keep")


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


def begin_with_kept(
    inputs: dict[str, NDArray[np.int32]],
    beginnings: Sequence[Beginning | None],
    nothing: NDArray[Any],
) -> dict[str, NDArray[Any]]:
    """Return the inputs of a batch whose rows begin with kept tokens.

    Args:
        inputs: Of `graph_inputs` with shared prefixes.
        beginnings: ``[B]``, what is kept of each row's beginning: less than the whole row.
        nothing: ``[0, W]`` in the graph's float type.

    Returns:
        `KEPT_INPUTS`: ``kept [P, W]`` with the P tokens that rows begin with and that are not the
        last one of any; ``input_ids`` and ``slot_of_token`` of the T tokens that are left;
        ``token_of_slot``, which counts the P and then the T; ``to_keep [0]``.
    """
    to_keep = np.zeros(0, np.int32)
    if not any(beginnings):
        return {**inputs, "kept": nothing, "to_keep": to_keep}
    shown, tokens = inputs["token_of_slot"], len(inputs["input_ids"])
    source = np.full(tokens, -1)  # the number of each token's prefix, and its place there
    places = np.zeros(tokens, np.int64)
    numbers: dict[KeptPrefix, int] = {}
    for row, beginning in zip(shown, beginnings, strict=True):
        if beginning is not None:
            number = numbers.setdefault(beginning.prefix, len(numbers))
            source[row[: beginning.length]] = number
            places[row[: beginning.length]] = np.arange(beginning.length)
    source[shown[:, -1]] = -1  # a row's last token is pooled, so it is computed
    is_kept = source >= 0
    # The prefixes one after the other, each in the order of its tokens.
    order = np.lexsort((places, source))[tokens - np.count_nonzero(is_kept) :]
    parts = [
        _at(prefix.keys_values, places[order[source[order] == number]])
        for prefix, number in numbers.items()
    ]
    renumbered = np.empty(tokens, np.int32)
    renumbered[order] = np.arange(len(order))
    renumbered[~is_kept] = np.arange(len(order), tokens)
    return {
        **inputs,
        "input_ids": inputs["input_ids"][~is_kept],
        "token_of_slot": renumbered[shown],
        "slot_of_token": inputs["slot_of_token"][~is_kept],
        "kept": np.concatenate(parts) if len(parts) > 1 else parts[0],
        "to_keep": to_keep,
    }


def _at(keys_values: NDArray[Any], places: NDArray[np.int64]) -> NDArray[Any]:
    """Return what stands at ascending places, without a copy where they are the first ones."""
    count = len(places)
    if not count or places[-1] == count - 1:
        return keys_values[:count]
    return keys_values[places]

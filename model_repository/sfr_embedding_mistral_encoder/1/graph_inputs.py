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


Part = tuple[KeptPrefix, NDArray[np.int64]]
"""A kept prefix, and ascending places of those of its tokens that a batch begins with."""


def begin_with_kept(
    inputs: dict[str, NDArray[np.int32]], beginnings: Sequence[Beginning | None]
) -> tuple[dict[str, NDArray[np.int32]], list[Part]]:
    """Return the inputs of a batch whose rows begin with kept tokens, and where these are.

    Args:
        inputs: Of `graph_inputs` with shared prefixes.
        beginnings: ``[B]``, what is kept of each row's beginning: less than the whole row.

    Returns:
        ``input_ids`` and ``slot_of_token`` of the T tokens that have to be computed, and
        ``token_of_slot``, which counts P kept ones and then these; and the parts that make up the
        P: tokens that rows begin with and that are not the last one of any.
    """
    if not any(beginnings):
        return inputs, []
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
    renumbered = np.empty(tokens, np.int32)
    renumbered[order] = np.arange(len(order))
    renumbered[~is_kept] = np.arange(len(order), tokens)
    begun = {
        **inputs,
        "input_ids": inputs["input_ids"][~is_kept],
        "token_of_slot": renumbered[shown],
        "slot_of_token": inputs["slot_of_token"][~is_kept],
    }
    parts = [(prefix, places[order[source[order] == number]]) for prefix, number in numbers.items()]
    return begun, parts


def gather_kept(parts: Sequence[Part], nothing: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Return the inputs of `KEPT_INPUTS` that `SHARED_INPUTS` lack.

    Args:
        parts: Of `begin_with_kept`.
        nothing: ``[0, W]`` in the graph's float type.

    Returns:
        ``kept [P, W]``, not copied where it is the beginning of one prefix, and ``to_keep [0]``.
    """
    arrays = [_at(prefix.keys_values, places) for prefix, places in parts] or [nothing]
    kept = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
    return {"kept": kept, "to_keep": np.zeros(0, np.int32)}


def in_company(
    inputs: dict[str, NDArray[np.int32]], *, kept_tokens: int = 0
) -> dict[str, NDArray[np.int32]]:
    """Return a batch's inputs with a row of one token more; any token does.

    Args:
        inputs: Of `graph_inputs` or `begin_with_kept`.
        kept_tokens: Of the latter's parts.
    """
    tokens = len(inputs["input_ids"])
    more = {
        "input_ids": np.resize(inputs["input_ids"], tokens + 1),
        "row_lengths": np.append(inputs["row_lengths"], np.int32(1)),
    }
    if "slots" not in inputs:
        rows = inputs["token_of_slot"]
        lone_row = np.full((1, rows.shape[1]), kept_tokens + tokens, np.int32)
        more["token_of_slot"] = np.concatenate([rows, lone_row])
        more["slot_of_token"] = np.append(inputs["slot_of_token"], np.int32(rows.size))
    return inputs | more


def _at(keys_values: NDArray[Any], places: NDArray[np.int64]) -> NDArray[Any]:
    count = len(places)
    if not count or places[-1] == count - 1:  # ascending, so they are the first ones
        return keys_values[:count]
    return keys_values[places]

"""Index arithmetic of packed rows: from row lengths to positions and gather indices.

A batch is ``input_ids [T]``, its rows back to back, with ``row_lengths [B]``; or, where rows share
what they begin with, each such token once, with the indices that say who shows it. Token-wise
operators need no more than that; attention needs to know which token belongs to which row. For it
the tokens are gathered to ``[B, S]`` (S = longest row) and back. A slot behind the end of its row
repeats the row's own last token: causal attention never looks ahead, so no real token sees it, and
it is dropped on the way back. Another row's token would not do: masked attention still multiplies
it, by zero, and a neighbour that overflowed to infinity or NaN would spoil this row. For the same
reason a row that overflows may spoil those that share tokens with it, which the server tries alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from lasttoken_export.graph.builder import GraphBuilder
from lasttoken_export.graph.kept_tokens import KeptTokens


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptRows:
    """Where rows find what was kept of an earlier batch.

    Attributes:
        tokens: The P kept tokens.
        key_of_slot: ``[B, S]`` int64 index of the token shown in each slot, among the P kept tokens
            and, behind these, the T packed ones.
    """

    tokens: KeptTokens
    key_of_slot: ir.Value


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedRows:
    """Indices of one batch, all int64.

    Attributes:
        lengths: ``[B]`` length of each row.
        positions: ``[1, T]`` position of each token in its row, from 0.
        first_tokens: ``[B]`` packed index of each row's first token.
        last_tokens: ``[B]`` packed index of each row's last token.
        token_of_slot: ``[B, S]`` packed index of the token shown in each slot; any where it is a
            kept one.
        slot_of_token: ``[T]`` index of a slot that shows each token, in the flattened ``[B * S]``.
        slot_numbers: ``[S]`` 0, 1, ...
        slot_count: ``[1]`` S.
        kept: Where the rows' first tokens may be of an earlier batch; None elsewhere.
    """

    lengths: ir.Value
    positions: ir.Value
    first_tokens: ir.Value
    last_tokens: ir.Value
    token_of_slot: ir.Value
    slot_of_token: ir.Value
    slot_numbers: ir.Value
    slot_count: ir.Value
    kept: KeptRows | None = None


def build_packed_rows(
    graph: GraphBuilder, input_ids: ir.Value, row_lengths: ir.Value, slots: ir.Value
) -> PackedRows:
    """Record the index arithmetic.

    Args:
        graph: Graph under construction.
        input_ids: ``[T]`` int32; only its shape is used.
        row_lengths: ``[B]`` int32, each at least 1, summing to T.
        slots: ``[S]`` int32; only its shape is used.
    """

    def range_like(value: ir.Value, name: str) -> ir.Value:
        """0, 1, ... as many as the 1-D value has elements (CumSum: Range needs a scalar)."""
        ones = graph.op(
            "ConstantOfShape",
            [graph.op("Shape", [value], f"{name}_shape")],
            f"{name}_ones",
            {"value": ir.tensor(np.ones(1, np.int64))},  # type: ignore[dict-item, unused-ignore]
        )
        return graph.op("CumSum", [ones, zero], name, {"exclusive": 1})

    with graph.scope("packed_rows"):
        zero = graph.constant(np.asarray(0, np.int64))
        one = graph.constant(np.asarray(1, np.int64))
        axis_0 = graph.constant(np.asarray([0], np.int64))
        axis_1 = graph.constant(np.asarray([1], np.int64))

        lengths = graph.op("Cast", [row_lengths], "lengths", {"to": ir.DataType.INT64})
        ends = graph.op("CumSum", [lengths, zero], "ends")  # [B]
        starts = graph.op("Sub", [ends, lengths], "starts")  # [B]
        tokens = range_like(input_ids, "tokens")  # [T]
        slot_numbers = range_like(slots, "slot_numbers")  # [S]

        # row_of_token: how many rows end at or before the token
        token_column = graph.op("Unsqueeze", [tokens, axis_1], "token_column")  # [T, 1]
        behind = graph.op("GreaterOrEqual", [token_column, ends], "behind_row")  # [T, B]
        behind_count = graph.op("Cast", [behind], "behind_row_int", {"to": ir.DataType.INT64})
        row_of_token = graph.op(
            "ReduceSum", [behind_count, axis_1], "row_of_token", {"keepdims": 0}
        )  # [T]
        start_of_token = graph.op("Gather", [starts, row_of_token], "start_of_token")
        position = graph.op("Sub", [tokens, start_of_token], "position")  # [T]

        slot_count = graph.op("Shape", [slots], "slot_count")  # [1]
        slot_of_token = graph.op(
            "Add",
            [graph.op("Mul", [row_of_token, slot_count], "row_offset"), position],
            "slot_of_token",
        )
        start_column = graph.op("Unsqueeze", [starts, axis_1], "start_column")  # [B, 1]
        last_tokens = graph.op("Sub", [ends, one], "last_tokens")  # [B]
        token_of_slot = graph.op(
            "Min",
            [
                graph.op("Add", [start_column, slot_numbers], "token_of_slot_unclamped"),
                graph.op("Unsqueeze", [last_tokens, axis_1], "last_token_column"),
            ],
            "token_of_slot",
        )  # [B, S]
        return PackedRows(
            lengths=lengths,
            first_tokens=starts,
            slot_numbers=slot_numbers,
            slot_count=slot_count,
            positions=graph.op("Unsqueeze", [position, axis_0], "positions"),
            last_tokens=last_tokens,
            token_of_slot=token_of_slot,
            slot_of_token=slot_of_token,
        )


def build_shared_rows(
    graph: GraphBuilder,
    row_lengths: ir.Value,
    token_of_slot: ir.Value,
    slot_of_token: ir.Value,
    *,
    kept: KeptTokens | None = None,
) -> PackedRows:
    """Record the indices of rows that share tokens, which whoever runs the graph has found.

    Only a causal model's rows share tokens. The indices are those of the server's
    shared_prefixes.py: all rows that show a token begin alike up to it, so that it stands at the
    same place in each.

    Args:
        graph: Graph under construction.
        row_lengths: ``[B]`` int32, each at least 1, at most S.
        token_of_slot: ``[B, S]`` int32, behind a row's end that of its last token.
        slot_of_token: ``[T]`` int32, any of the slots that show the token.
        kept: Tokens that rows may begin with in place of packed ones; ``token_of_slot`` counts
            these first then. A row's last token is packed.
    """
    with graph.scope("shared_rows"):
        zero = graph.constant(np.asarray(0, np.int64))
        one = graph.constant(np.asarray(1, np.int64))
        axis_0 = graph.constant(np.asarray([0], np.int64))
        axis_1 = graph.constant(np.asarray([1], np.int64))

        def as_int64(value: ir.Value, name: str) -> ir.Value:
            return graph.op("Cast", [value], name, {"to": ir.DataType.INT64})

        keys = as_int64(token_of_slot, "token_of_slot")  # [B, S]
        # A kept token's query was answered in its own batch: what stands in its slot is dropped.
        tokens = keys
        if kept is not None:
            packed = graph.op("Sub", [keys, kept.count()], "packed_token")
            tokens = graph.op("Max", [packed, zero], "token_of_query")
        slots = as_int64(slot_of_token, "slot_of_token")  # [T]
        lengths = as_int64(row_lengths, "lengths")  # [B]
        slot_count = graph.op("Shape", [token_of_slot], "slot_count", {"start": 1})  # [1]
        last_slot = graph.op("Sub", [slot_count, one], "last_slot")  # [1]
        last_column = graph.op("Gather", [tokens, last_slot], "last_column", {"axis": 1})  # [B, 1]
        position = graph.op("Mod", [slots, slot_count], "position")  # [T]
        ones = graph.op(
            "ConstantOfShape",
            [slot_count],
            "slot_ones",
            {"value": ir.tensor(np.ones(1, np.int64))},  # type: ignore[dict-item, unused-ignore]
        )
        return PackedRows(
            lengths=lengths,
            first_tokens=graph.op("Gather", [tokens, zero], "first_tokens", {"axis": 1}),
            # What stands behind a row's end is its last token, and so is its last slot.
            last_tokens=graph.op("Squeeze", [last_column, axis_1], "last_tokens"),
            slot_numbers=graph.op("CumSum", [ones, zero], "slot_numbers", {"exclusive": 1}),
            slot_count=slot_count,
            positions=graph.op("Unsqueeze", [position, axis_0], "positions"),
            token_of_slot=tokens,
            slot_of_token=slots,
            kept=None if kept is None else KeptRows(tokens=kept, key_of_slot=keys),
        )


def build_slot_mask(graph: GraphBuilder, rows: PackedRows) -> ir.Value:
    """Record which slots hold a token of their row: ``[B, S]`` bool."""
    with graph.scope("packed_rows"):
        axis_1 = graph.constant(np.asarray([1], np.int64))
        length_column = graph.op("Unsqueeze", [rows.lengths, axis_1], "length_column")
        return graph.op("Less", [rows.slot_numbers, length_column], "slot_mask")

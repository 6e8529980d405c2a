"""Self-attention of packed tokens, causal or not, over gathered rows.

Rotary embedding runs on the packed tokens. Queries, keys and values are then gathered to
``[B, S, heads * head_dim]``, so that no attention cell crosses two rows and a row's arithmetic is
the same whatever it is batched with; the result is gathered back to the packed form.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from lasttoken_export.graph.builder import GraphBuilder
from lasttoken_export.graph.packed_rows import PackedRows, build_slot_mask


@dataclass(frozen=True, slots=True, kw_only=True)
class RotaryCaches:
    """Cosines and sines, each ``[max_positions, head_dim / 2]`` in the graph's float type."""

    cos: ir.Value
    sin: ir.Value


def rotary_cache_arrays(
    *, theta: float, head_dim: int, positions: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return cos and sin of ``position * theta ** (-2 i / head_dim)``.

    Both are ``[positions, head_dim / 2]`` float32. The frequencies and angles are float32 as in
    transformers, whose models are the reference.

    Source: RoFormer, https://arxiv.org/abs/2104.09864, equation 15.
    """
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    frequencies = (1.0 / np.power(np.float32(theta), exponents)).astype(np.float32)
    angles = np.outer(np.arange(positions, dtype=np.float32), frequencies)
    return np.cos(angles), np.sin(angles)


def build_rotary(
    graph: GraphBuilder,
    queries_keys: ir.Value,
    rows: PackedRows,
    rotary: RotaryCaches,
    *,
    heads: int,
) -> ir.Value:
    """Rotate ``queries_keys [T, heads * head_dim]``: neighbours, so one operator does both."""
    axis_0 = graph.constant(np.asarray([0], np.int64))
    rotated = graph.op(
        "RotaryEmbedding",
        [
            graph.op("Unsqueeze", [queries_keys, axis_0], "queries_keys_3d"),
            rotary.cos,
            rotary.sin,
            rows.positions,
        ],
        "rotary",
        {"num_heads": heads},
    )
    return graph.op("Squeeze", [rotated, axis_0], "rotated")


def build_key_mask(graph: GraphBuilder, rows: PackedRows) -> ir.Value:
    """Record which keys a bidirectional query may see: ``[B, 1, S, S]`` bool, one for all layers.

    ONNX Runtime's Attention wants the axis of the queries in full.
    """
    slot_mask = build_slot_mask(graph, rows)
    with graph.scope("packed_rows"):
        one = graph.constant(np.asarray([1], np.int64))
        by_key = graph.op(
            "Unsqueeze",
            [slot_mask, graph.constant(np.asarray([1, 2], np.int64))],
            "key_mask_4d",
        )  # [B, 1, 1, S]
        shape = graph.op("Concat", [one, one, rows.slot_count, one], "query_axis", {"axis": 0})
        return graph.op("Expand", [by_key, shape], "key_mask")


def build_attention(
    graph: GraphBuilder,
    queries_keys: ir.Value,
    values: ir.Value,
    rows: PackedRows,
    *,
    num_heads: int,
    num_kv_heads: int,
    head_dim: int,
    key_mask: ir.Value | None,
    wanted: ir.Value | None,
) -> ir.Value:
    """Record attention.

    Args:
        graph: Graph under construction.
        queries_keys: ``[T, (num_heads + num_kv_heads) * head_dim]``, rotated where the model does.
        values: ``[T, num_kv_heads * head_dim]``.
        rows: The batch's indices.
        num_heads: Query heads.
        num_kv_heads: Key and value heads; divides ``num_heads``.
        head_dim: Elements a head.
        key_mask: Of `build_key_mask` for bidirectional attention; None for causal attention.
        wanted: ``[B]`` packed indices of the tokens that are wanted; None for all.

    Returns:
        ``[T, num_heads * head_dim]``, or ``[B, num_heads * head_dim]`` of the wanted tokens.
    """
    q_size, kv_size = num_heads * head_dim, num_kv_heads * head_dim

    def in_rows(packed: ir.Value, slots: ir.Value, name: str) -> ir.Value:
        return graph.op("Gather", [packed, slots], name, {"axis": 0})

    if rows.kept is None:
        gathered = in_rows(queries_keys, rows.token_of_slot, "queries_keys_rows")
        query_rows, key_rows = graph.split(gathered, [q_size, kv_size], ["query_rows", "key_rows"])
        value_rows = in_rows(values, rows.token_of_slot, "value_rows")
    else:
        kept, key_of_slot = rows.kept.tokens, rows.kept.key_of_slot
        queries, keys = graph.split(queries_keys, [q_size, kv_size], ["queries", "keys"])
        query_rows = in_rows(queries, rows.token_of_slot, "query_rows")
        key_rows = in_rows(kept.before(keys, "keys"), key_of_slot, "key_rows")
        value_rows = in_rows(kept.before(values, "values"), key_of_slot, "value_rows")
    inputs: list[ir.Value | None] = [query_rows, key_rows, value_rows]
    if key_mask is not None:
        inputs.append(key_mask)
    attended = graph.op(
        "Attention",
        inputs,
        "attention",
        {
            "q_num_heads": num_heads,
            "kv_num_heads": num_kv_heads,
            "scale": 1.0 / math.sqrt(head_dim),
            "is_causal": int(key_mask is None),
        },
    )  # [B, S, q_size]
    flat = graph.op(
        "Reshape",
        [attended, graph.constant(np.asarray([-1, q_size], np.int64))],
        "attended_slots",
    )  # [B * S, q_size]
    slots = rows.slot_of_token
    if wanted is not None:
        slots = graph.op("Gather", [slots, wanted], "wanted_slots")
    return graph.op("Gather", [flat, slots], "attended", {"axis": 0})

"""The head: pooling by last token, first token or mean, and L2 normalisation in float32."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from lasttoken_export.graph.builder import GraphBuilder
from lasttoken_export.graph.packed_rows import PackedRows

SQUARED_NORM_FLOOR = 1e-24
"""Keeps the division finite; the square of torch.nn.functional.normalize's eps of 1e-12."""


def pooled_tokens(pooling: str, rows: PackedRows) -> ir.Value | None:
    """Return ``[B]``, the packed index of the one token of each row that is pooled.

    Args:
        pooling: One of `POOLINGS`.
        rows: The batch's indices.

    Returns:
        The last token, or the first, the CLS; None for a mean of all.
    """
    return {"last_token": rows.last_tokens, "cls": rows.first_tokens, "mean": None}[pooling]


def build_mean(graph: GraphBuilder, hidden: ir.Value, rows: PackedRows) -> ir.Value:
    """Average each row's tokens in float32: ``hidden [T, D]`` to ``[B, D]``.

    The sum is the running sum over the row's slots at its last token. It adds one token after the
    other, so it is bitwise the same whatever the longest row is; ONNX Runtime's ReduceSum and
    MatMul group their terms by the number of slots.
    """
    with graph.scope("mean"):
        axis_1 = graph.constant(np.asarray([1], np.int64))
        single = graph.op("Cast", [hidden], "float32", {"to": ir.DataType.FLOAT})
        gathered = graph.op("Gather", [single, rows.token_of_slot], "rows", {"axis": 0})
        slot_axis = graph.constant(np.asarray(1, np.int64))
        running = graph.op("CumSum", [gathered, slot_axis], "running_sum")  # [B, S, D]
        size = graph.op("Shape", [single], "size", {"start": 1})
        any_rows = graph.constant(np.asarray([-1], np.int64))
        flat_shape = graph.op("Concat", [any_rows, size], "flat_shape", {"axis": 0})
        flat = graph.op("Reshape", [running, flat_shape], "running_sum_slots")  # [B * S, D]
        last_slots = graph.op("Gather", [rows.slot_of_token, rows.last_tokens], "last_slots")
        summed = graph.op("Gather", [flat, last_slots], "sum", {"axis": 0})
        lengths = graph.op("Cast", [rows.lengths], "lengths", {"to": ir.DataType.FLOAT})
        return graph.op("Div", [summed, graph.op("Unsqueeze", [lengths, axis_1], "count")], "mean")


POOLINGS = ("last_token", "cls", "mean")
"""By the name in the catalogue."""


def build_layer_norm(graph: GraphBuilder, pooled: ir.Value, *, dimensions: int) -> ir.Value:
    """Normalise ``pooled [B, D]`` to mean 0 and variance 1 in float32, without weights.

    Source: model card of nomic-ai/nomic-embed-text-v1.5.
    """
    single = graph.op("Cast", [pooled], "pooled_float32", {"to": ir.DataType.FLOAT})
    ones = graph.constant(np.ones(dimensions, np.float32))
    return graph.op(
        "LayerNormalization", [single, ones], "pooled_layer_norm", {"axis": -1, "epsilon": 1e-5}
    )


def build_l2_normalize(graph: GraphBuilder, pooled: ir.Value, name: str) -> ir.Value:
    """Divide ``pooled [B, D]`` by its rows' L2 norms, in float32 whatever its type.

    float16 cannot hold the sum of squares of a few thousand elements, which is where half-precision
    embedders produce infinities.
    """
    with graph.scope("l2_normalize"):
        single = graph.op("Cast", [pooled], "float32", {"to": ir.DataType.FLOAT})
        squared_norm = graph.op(
            "ReduceSum",
            [
                graph.op("Mul", [single, single], "squares"),
                graph.constant(np.asarray([-1], np.int64)),
            ],
            "squared_norm",
            {"keepdims": 1},
        )
        floor = graph.constant(np.asarray(SQUARED_NORM_FLOOR, np.float32))
        norm = graph.op("Sqrt", [graph.op("Max", [squared_norm, floor], "floored")], "norm")
    embedding = graph.op("Div", [single, norm], name)
    embedding.dtype = ir.DataType.FLOAT
    return embedding

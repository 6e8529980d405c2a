"""The head: last-token pooling, final norm, L2 normalisation in float32."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from lasttoken_export.graph.builder import GraphBuilder
from lasttoken_export.graph.packed_rows import PackedRows

SQUARED_NORM_FLOOR = 1e-24
"""Keeps the division finite; the square of torch.nn.functional.normalize's eps of 1e-12."""


def build_last_token(graph: GraphBuilder, hidden: ir.Value, rows: PackedRows) -> ir.Value:
    """Gather each row's last token: ``hidden [T, D]`` to ``[B, D]``."""
    return graph.op("Gather", [hidden, rows.last_tokens], "last_token", {"axis": 0})


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

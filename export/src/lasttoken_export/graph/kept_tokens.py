"""Keys and values of tokens that were computed in an earlier batch, in and out of the graph.

A causal model's token has the same keys and values in every row that begins with the same tokens,
whichever batch that is in. Whoever runs the graph keeps them (the server's kept_prefixes.py) and
gives those that a batch's rows begin with; their tokens are not computed again.
"""

from __future__ import annotations

import onnx_ir as ir

from lasttoken_export.graph.builder import GraphBuilder


class KeptTokens:
    """Declares the inputs ``kept [P, 2 * layers * width]`` and ``to_keep [N] int32``.

    ``kept`` holds a token's keys, rotated, and values, layer by layer; P may be 0. ``to_keep`` are
    indices among the P kept tokens and, behind these, the T computed ones.

    Args:
        graph: Graph under construction.
        layers: Layers of the graph.
        width: Elements of a token's keys in one layer, and of its values.
        dtype: Their type.
    """

    def __init__(self, graph: GraphBuilder, *, layers: int, width: int, dtype: ir.DataType) -> None:
        self._graph = graph
        self._dtype = dtype
        self._width = 2 * layers * width
        self.kept = graph.input("kept", dtype, ["kept_tokens", self._width])
        self._to_keep = graph.input("to_keep", ir.DataType.INT32, ["tokens_to_keep"])
        names = [f"{what}_{layer}" for layer in range(layers) for what in ("keys", "values")]
        with graph.scope("kept_tokens"):
            self._parts = graph.split_evenly(self.kept, names, "split_kept")
        self._wanted: list[ir.Value] = []

    def count(self) -> ir.Value:
        """Record P: ``[1]`` int64."""
        return self._graph.op("Shape", [self.kept], "kept_count", {"start": 0, "end": 1})

    def before(self, values: ir.Value, name: str) -> ir.Value:
        """Record a layer's keys, then its values: ``[T, width]`` to ``[P + T, width]``.

        Called for keys and values of each layer in turn.
        """
        graph, kept = self._graph, self._parts[len(self._wanted)]
        known = graph.op("Concat", [kept, values], f"{name}_with_kept", {"axis": 0})
        self._wanted.append(graph.op("Gather", [known, self._to_keep], f"{name}_to_keep"))
        return known

    def output(self) -> ir.Value:
        """Record what is kept of this batch: ``keys_values [N, 2 * layers * width]``."""
        output = self._graph.op("Concat", self._wanted, "keys_values", {"axis": 1})
        output.shape = ir.Shape(["tokens_to_keep", self._width])
        output.dtype = self._dtype
        return output

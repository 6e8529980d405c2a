"""What the packed graphs of all architectures share: inputs, weights, linear layers, the head."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from lasttoken_export.checkpoint import Checkpoint
from lasttoken_export.graph.attention import RotaryCaches, rotary_cache_arrays
from lasttoken_export.graph.builder import GraphBuilder
from lasttoken_export.graph.packed_rows import PackedRows, build_packed_rows
from lasttoken_export.graph.pooling import POOLINGS, build_l2_normalize, build_layer_norm

FLOAT_TYPES: dict[str, tuple[ir.DataType, np.dtype[Any]]] = {
    "fp32": (ir.DataType.FLOAT, np.dtype(np.float32)),
    "fp16": (ir.DataType.FLOAT16, np.dtype(np.float16)),
    "bf16": (ir.DataType.BFLOAT16, np.dtype(ml_dtypes.bfloat16)),
}
"""Types in a graph and in memory by the name in `precisions.FLOATS`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingContract:
    """What a model's authors say about its vectors, beyond its weights.

    Attributes:
        pooling: One of `POOLINGS`.
        attention: ``causal`` or ``bidirectional``.
        layer_norm: Whether the pooled vector passes a layer norm without weights.
    """

    pooling: str = "last_token"
    attention: str = "causal"
    layer_norm: bool = False


class PackedGraph(ABC):
    """Builds the graph of one checkpoint in one precision.

    Args:
        checkpoint: The weights, read when the graph is saved.
        precision: One of `FLOAT_TYPES`.
        contract: Pooling and attention.
        num_layers: Only so many of the first layers, for a check; None for all.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        precision: str,
        contract: EmbeddingContract | None = None,
        num_layers: int | None = None,
    ) -> None:
        self._checkpoint = checkpoint
        self._num_layers = num_layers or checkpoint.config.num_layers
        self._contract = contract or EmbeddingContract()
        self._dtype, self._numpy_dtype = FLOAT_TYPES[precision]
        self._graph = GraphBuilder("packed_embedder")

    def build(self, *, rotary_positions: int, version: str) -> ir.Model:
        """Return the model; its weights are read only when it is saved.

        Args:
            rotary_positions: Rows of the cos/sin caches. ONNX Runtime refuses a run whose packed
                token count exceeds them, whatever the positions, so this bounds a batch's tokens.
            version: Recorded as the producer's version.

        Returns:
            Inputs ``input_ids [tokens] int32``, ``row_lengths [rows] int32``,
            ``slots [longest_row] int32`` (only its shape counts); output
            ``embedding [rows, hidden] float32``, L2-normalised.
        """
        graph = self._graph
        dimensions = self._checkpoint.config.hidden_size
        input_ids = graph.input("input_ids", ir.DataType.INT32, ["tokens"])
        row_lengths = graph.input("row_lengths", ir.DataType.INT32, ["rows"])
        slots = graph.input("slots", ir.DataType.INT32, ["longest_row"])
        rows = build_packed_rows(graph, input_ids, row_lengths, slots)
        hidden = self._body(input_ids, rows, rotary_positions)
        pool = POOLINGS[self._contract.pooling]
        if self._contract.pooling == "mean":
            pooled = pool(graph, self._final_norm(hidden), rows)
        else:  # pooled first: the norm of B rows, not of T
            pooled = self._final_norm(pool(graph, hidden, rows))
        if self._contract.layer_norm:
            pooled = build_layer_norm(graph, pooled, dimensions=dimensions)
        embedding = build_l2_normalize(graph, pooled, "embedding")
        embedding.shape = ir.Shape(["rows", dimensions])
        return graph.model([embedding], producer="lasttoken-export", version=version)

    @abstractmethod
    def _body(self, input_ids: ir.Value, rows: PackedRows, rotary_positions: int) -> ir.Value:
        """Record everything up to the hidden states ``[T, hidden]``."""

    def _final_norm(self, hidden: ir.Value) -> ir.Value:
        """Record the norm behind the last layer, where there is one."""
        return hidden

    def _linear(
        self,
        parts: Sequence[tuple[str, int]],
        value: ir.Value,
        in_features: int,
        name: str | None = None,
        *,
        bias: bool = False,
    ) -> ir.Value:
        """Multiply by the weights of one or several linear layers, side by side.

        Args:
            parts: Name in the checkpoint and output elements of each.
            value: ``[T, in_features]``.
            in_features: Input elements.
            name: Name in the graph; None for the only part's.
            bias: Whether they have biases.
        """
        name = name or parts[0][0]
        size = sum(part_size for _, part_size in parts)

        def read() -> NDArray[Any]:
            fused = np.empty((in_features, size), self._numpy_dtype)
            column = 0
            for part, part_size in parts:
                fused[:, column : column + part_size] = self._checkpoint.read(f"{part}.weight").T
                column += part_size
            return fused

        def read_bias() -> NDArray[Any]:
            fused = np.empty(size, self._numpy_dtype)
            place = 0
            for part, part_size in parts:
                fused[place : place + part_size] = self._checkpoint.read(f"{part}.bias")
                place += part_size
            return fused

        weight = self._graph.weight(f"{name}.weight", (in_features, size), self._dtype, read)
        short_name = name.rpartition(".")[2]
        product = self._graph.op("MatMul", [value, weight], short_name)
        if not bias:
            return product
        biases = self._graph.weight(f"{name}.bias", (size,), self._dtype, read_bias)
        return self._graph.op("Add", [product, biases], f"{short_name}_biased")

    def _layer_norm(self, name: str, value: ir.Value, *, size: int, epsilon: float) -> ir.Value:
        """Normalise ``[T, size]`` to mean 0 and variance 1, with weight and bias."""
        weight = self._tensor(f"{name}.weight", (size,))
        bias = self._tensor(f"{name}.bias", (size,))
        return self._graph.op(
            "LayerNormalization",
            [value, weight, bias],
            name.rpartition(".")[2],
            {"axis": -1, "epsilon": epsilon, "stash_type": 1},
        )

    def _tensor(self, name: str, shape: tuple[int, ...]) -> ir.Value:
        def read() -> NDArray[Any]:
            return self._checkpoint.read(name).astype(self._numpy_dtype, copy=False)

        return self._graph.weight(name, shape, self._dtype, read)

    def _constant(self, array: NDArray[Any]) -> ir.Value:
        """Return a small constant in the graph's float type."""
        return self._graph.constant(array.astype(self._numpy_dtype))

    def _rotary_caches(self, *, theta: float, head_dim: int, positions: int) -> RotaryCaches:
        def cache(which: int, name: str) -> ir.Value:
            def read() -> NDArray[Any]:
                arrays = rotary_cache_arrays(theta=theta, head_dim=head_dim, positions=positions)
                return arrays[which].astype(self._numpy_dtype)

            shape = (positions, head_dim // 2)
            return self._graph.weight(f"rotary.{name}", shape, self._dtype, read)

        return RotaryCaches(cos=cache(0, "cos"), sin=cache(1, "sin"))

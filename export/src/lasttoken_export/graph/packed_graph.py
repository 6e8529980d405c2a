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
from lasttoken_export.graph.linear import LinearLayers
from lasttoken_export.graph.linear_layer import Fold, LinearLayer
from lasttoken_export.graph.packed_rows import PackedRows, build_packed_rows
from lasttoken_export.graph.pooling import POOLINGS, build_l2_normalize, build_layer_norm
from lasttoken_export.precisions import PRECISIONS
from lasttoken_export.quantisation.calibration import Calibration
from lasttoken_export.quantisation.weights import (
    block_size,
    in_half_precision,
    int8_channel_scales,
    to_int8,
)

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


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerContext:
    """What all layers share.

    Attributes:
        rows: The batch's indices.
        rotary: Caches of rotary positions; None where positions are learned.
        key_mask: Of `build_key_mask` for bidirectional attention; None for causal attention.
    """

    rows: PackedRows
    rotary: RotaryCaches | None
    key_mask: ir.Value | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationLayer:
    """The graph of one layer of a model, for calibration.

    Attributes:
        model: Its first output is the layer's, then come the inputs of its linear layers.
        linears: These linear layers.
        needs_hidden: Whether its input is ``hidden``; the first layer begins with the tokens.
    """

    model: ir.Model
    linears: tuple[LinearLayer, ...]
    needs_hidden: bool


class PackedGraph(ABC):
    """Builds the graph of one checkpoint in one precision.

    Args:
        checkpoint: The weights, read when the graph is saved.
        precision: One of `PRECISIONS`.
        contract: Pooling and attention.
        num_layers: Only so many of the first layers, for a check; None for all.
        target: One of `precisions.TARGETS`.
        float_type: Float type of what is not quantised, one of `FLOAT_TYPES`; None for the
            precision's own.
        calibration: Scales of a calibrated precision; None for the others.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        precision: str,
        contract: EmbeddingContract | None = None,
        num_layers: int | None = None,
        target: str = "onnxruntime",
        float_type: str | None = None,
        calibration: Calibration | None = None,
    ) -> None:
        self._checkpoint = checkpoint
        self._num_layers = num_layers or checkpoint.config.num_layers
        self._contract = contract or EmbeddingContract()
        self._dtype, self._numpy_dtype = FLOAT_TYPES[float_type or precision]
        self._graph = GraphBuilder("packed_embedder")
        self._linears = LinearLayers(
            self._graph,
            checkpoint,
            precision=precision,
            target=target,
            dtype=self._dtype,
            numpy_dtype=self._numpy_dtype,
            calibration=calibration,
        )
        # TensorRT takes int8 only between QuantizeLinear and DequantizeLinear.
        self._int8_embeddings = not PRECISIONS[precision].is_float and target == "onnxruntime"
        self._recorded: list[tuple[LinearLayer, ir.Value]] = []

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
        context = self._context(rows, rotary_positions)
        hidden = self._embeddings(input_ids, rows)
        for index in range(self._num_layers):
            with graph.scope(f"layers.{index}"):
                hidden = self._layer(index, hidden, context)
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

    def build_layer(self, index: int, *, rotary_positions: int) -> CalibrationLayer:
        """Return the graph of one layer, which needs the memory of that layer only.

        Args:
            index: The layer, from 0.
            rotary_positions: Rows of the cos/sin caches; no batch may have more tokens.
        """
        graph = self._graph
        input_ids = graph.input("input_ids", ir.DataType.INT32, ["tokens"])
        row_lengths = graph.input("row_lengths", ir.DataType.INT32, ["rows"])
        slots = graph.input("slots", ir.DataType.INT32, ["longest_row"])
        rows = build_packed_rows(graph, input_ids, row_lengths, slots)
        context = self._context(rows, rotary_positions)
        if index == 0:
            hidden = self._embeddings(input_ids, rows)
        else:
            size = self._checkpoint.config.hidden_size
            hidden = graph.input("hidden", self._dtype, ["tokens", size])
        with graph.scope(f"layers.{index}"):
            hidden = self._layer(index, hidden, context)
        # The same value may enter two layers; an output must be there once.
        outputs = [hidden, *(graph.op("Identity", [v], "input") for _, v in self._recorded)]
        for output in outputs:
            output.dtype = self._dtype
        return CalibrationLayer(
            model=graph.model(outputs, producer="lasttoken-export", version="0"),
            linears=tuple(layer for layer, _ in self._recorded),
            needs_hidden=index > 0,
        )

    @abstractmethod
    def _context(self, rows: PackedRows, rotary_positions: int) -> LayerContext:
        """Record what all layers share."""

    @abstractmethod
    def _embeddings(self, input_ids: ir.Value, rows: PackedRows) -> ir.Value:
        """Record what comes before the first layer: ``[T, hidden]``."""

    @abstractmethod
    def _layer(self, index: int, hidden: ir.Value, context: LayerContext) -> ir.Value:
        """Record one layer: ``[T, hidden]`` to ``[T, hidden]``."""

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
        fold: Fold | None = None,
        smooths: Sequence[tuple[Fold, int]] = (),
    ) -> ir.Value:
        """Multiply by the weights of one or several linear layers, side by side.

        Args:
            parts: Name in the checkpoint and output elements of each.
            value: ``[T, in_features]``.
            in_features: Input elements.
            name: Name in the graph; None for the only part's.
            bias: Whether they have biases.
            fold: Where the smoothing of ``value`` goes; None where nothing upstream can take it.
            smooths: Layers whose smoothing goes into this one: each with the first of the output
                columns that it divides.
        """
        layer = LinearLayer(
            name=name or parts[0][0],
            parts=tuple(parts),
            in_features=in_features,
            bias=bias,
            fold=fold,
            smooths=tuple(smooths),
        )
        self._recorded.append((layer, value))
        product = self._linears.multiply(value, layer)
        if not bias:
            return product
        biases = self._graph.weight(
            f"{layer.name}.bias",
            (layer.out_features,),
            self._dtype,
            lambda: layer.read_bias(self._checkpoint, self._numpy_dtype, self._linears.smoothing),
        )
        return self._graph.op("Add", [product, biases], f"{layer.short_name}_biased")

    def _embed(self, name: str, shape: tuple[int, int], input_ids: ir.Value) -> ir.Value:
        """Look the tokens up in the table of word embeddings: ``[T, hidden]``."""
        graph = self._graph
        if not self._int8_embeddings:
            return graph.op("Gather", [self._tensor(name, shape), input_ids], "words", {"axis": 0})

        words, size = shape
        blocks = size // (block_size(size) or size)

        def read() -> NDArray[np.float32]:
            return self._checkpoint.read(name).astype(np.float32).reshape(words, blocks, -1)

        def scales() -> NDArray[np.float32]:
            return in_half_precision(int8_channel_scales(read().transpose(2, 0, 1)))

        table = graph.weight(
            name, (words, blocks, size // blocks), ir.DataType.INT8,
            lambda: to_int8(read(), scales()[..., None]),
        )  # fmt: skip
        scale = graph.weight(
            f"{name}.scale", (words, blocks, 1), ir.DataType.FLOAT16,
            lambda: scales()[..., None].astype(np.float16),
        )  # fmt: skip
        found = []
        for what, stored in (("codes", table), ("scales", scale)):
            rows = graph.op("Gather", [stored, input_ids], f"word_{what}", {"axis": 0})
            found.append(graph.op("Cast", [rows], f"word_{what}_floats", {"to": self._dtype}))
        product = graph.op("Mul", found, "word_blocks")
        flat = graph.constant(np.asarray([-1, size], np.int64))
        return graph.op("Reshape", [product, flat], "words")

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

    def _tensor(
        self, name: str, shape: tuple[int, ...], *, smooths: Fold | None = None
    ) -> ir.Value:
        """Return a tensor of the checkpoint, divided by the smoothing of a layer that it feeds."""

        def read() -> NDArray[Any]:
            array = self._checkpoint.read(name)
            if smooths is not None and (calibration := self._linears.smoothing) is not None:
                array = array.astype(np.float32) / smooths.divisors(calibration)
            return array.astype(self._numpy_dtype, copy=False)

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

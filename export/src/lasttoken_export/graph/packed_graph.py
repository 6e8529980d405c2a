"""What the packed graphs of all architectures share: inputs, weights, linear layers, the head."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from lasttoken_export.catalogue import CatalogueEntry
from lasttoken_export.checkpoint import Checkpoint
from lasttoken_export.graph.attention import RotaryCaches, rotary_cache_arrays
from lasttoken_export.graph.builder import GraphBuilder
from lasttoken_export.graph.kept_tokens import KeptTokens
from lasttoken_export.graph.linear import LinearLayers
from lasttoken_export.graph.linear_blocks import LinearBlocks
from lasttoken_export.graph.linear_layer import Fold, LinearLayer
from lasttoken_export.graph.packed_rows import (
    PackedRows,
    build_packed_rows,
    build_shared_rows,
)
from lasttoken_export.graph.pooling import (
    build_l2_normalize,
    build_layer_norm,
    build_mean,
    pooled_tokens,
)
from lasttoken_export.graph.word_embeddings import build_rounded_words, word_bits
from lasttoken_export.precisions import PRECISIONS
from lasttoken_export.quantisation.calibration import Calibration

LONE_ROW = "lone_row_modulus"
"""Metadata of a graph that must not run with one token more than a multiple of this, lest the last
one's vector be of other bits."""
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
        pooling: One of `pooling.POOLINGS`.
        attention: ``causal`` or ``bidirectional``.
        layer_norm: Whether the pooled vector passes a layer norm without weights.
    """

    pooling: str = "last_token"
    attention: str = "causal"
    layer_norm: bool = False

    @classmethod
    def of(cls, entry: CatalogueEntry) -> EmbeddingContract:
        """Return that of a catalogue entry."""
        return cls(pooling=entry.pooling, attention=entry.attention, layer_norm=entry.layer_norm)


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
        self._blocks = LinearBlocks(
            self._graph, self._linears, hidden_size=checkpoint.config.hidden_size
        )
        # TensorRT takes int8 only between QuantizeLinear and DequantizeLinear.
        rounds_words = not PRECISIONS[precision].is_float and target == "onnxruntime"
        self._rounded_words = PRECISIONS[precision].weights if rounds_words else None

    def build(
        self,
        *,
        rotary_positions: int,
        version: str,
        shares_prefixes: bool = False,
        keeps_prefixes: bool = False,
    ) -> ir.Model:
        """Return the model; its weights are read only when it is saved.

        Args:
            rotary_positions: Rows of the cos/sin caches. ONNX Runtime refuses a run whose packed
                token count exceeds them, whatever the positions, so this bounds a batch's tokens.
            version: Recorded as the producer's version.
            shares_prefixes: Whether rows may share tokens.
            keeps_prefixes: Whether they may also begin with tokens of an earlier batch, of which
                there are keys and values, but nothing that could be pooled.

        Returns:
            Inputs ``input_ids [tokens] int32``, ``row_lengths [rows] int32``,
            ``slots [longest_row] int32`` (only its shape counts), or, of rows that share tokens, in
            place of the last ``token_of_slot [rows, longest_row] int32`` and
            ``slot_of_token [tokens] int32``; output ``embedding [rows, hidden] float32``,
            L2-normalised. Of rows that may begin with tokens of an earlier batch also those of
            `KeptTokens`.

        Raises:
            ValueError: Rows shall share tokens, but attention is not causal; or begin with those of
                an earlier batch, but share none, or pool others than their last.
        """
        graph = self._graph
        dimensions = self._checkpoint.config.hidden_size
        input_ids = graph.input("input_ids", ir.DataType.INT32, ["tokens"])
        row_lengths = graph.input("row_lengths", ir.DataType.INT32, ["rows"])
        if keeps_prefixes and not (shares_prefixes and self._contract.pooling == "last_token"):
            raise ValueError("kept are tokens of rows that share them, and pool their last one")
        if shares_prefixes:
            if self._contract.attention != "causal":
                raise ValueError("only a causal model's rows share what they begin with")
            shape = ["rows", "longest_row"]
            token_of_slot = graph.input("token_of_slot", ir.DataType.INT32, shape)
            slot_of_token = graph.input("slot_of_token", ir.DataType.INT32, ["tokens"])
            kept = self._kept_tokens() if keeps_prefixes else None
            rows = build_shared_rows(graph, row_lengths, token_of_slot, slot_of_token, kept=kept)
        else:
            slots = graph.input("slots", ir.DataType.INT32, ["longest_row"])
            rows = build_packed_rows(graph, input_ids, row_lengths, slots)
        context = self._context(rows, rotary_positions)
        hidden = self._embeddings(input_ids, rows)
        last = self._num_layers - 1
        pooled_token = pooled_tokens(self._contract.pooling, rows)
        modulus = self._linears.lone_row_modulus
        wanted = pooled_token if modulus is None else None
        for index in range(self._num_layers):
            with graph.scope(f"layers.{index}"):
                hidden = self._layer(index, hidden, context, wanted if index == last else None)
        if wanted is None:
            hidden = self._wanted(hidden, pooled_token)
        pooled = self._final_norm(hidden)
        if pooled_token is None:
            pooled = build_mean(graph, pooled, rows)
        pooled = self._unrotated(pooled)
        if self._contract.layer_norm:
            pooled = build_layer_norm(graph, pooled, dimensions=dimensions)
        embedding = build_l2_normalize(graph, pooled, "embedding")
        embedding.shape = ir.Shape(["rows", dimensions])
        kept_too = [] if rows.kept is None else [rows.kept.tokens.output()]
        return graph.model(
            [embedding, *kept_too],
            producer="lasttoken-export",
            version=version,
            metadata=None if modulus is None else {LONE_ROW: str(modulus)},
        )

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
            hidden = self._layer(index, hidden, context, None)
        # The same value may enter two layers; an output must be there once.
        outputs = [hidden, *(graph.op("Identity", [v], "input") for _, v in self._blocks.recorded)]
        for output in outputs:
            output.dtype = self._dtype
        return CalibrationLayer(
            model=graph.model(outputs, producer="lasttoken-export", version="0"),
            linears=tuple(layer for layer, _ in self._blocks.recorded),
            needs_hidden=index > 0,
        )

    def _kept_tokens(self) -> KeptTokens:
        """Declare what is kept of a token; of models whose attention is causal."""
        raise ValueError(f"{type(self).__name__} has no causal attention")

    @abstractmethod
    def _context(self, rows: PackedRows, rotary_positions: int) -> LayerContext:
        """Record what all layers share."""

    @abstractmethod
    def _embeddings(self, input_ids: ir.Value, rows: PackedRows) -> ir.Value:
        """Record what comes before the first layer: ``[T, hidden]``."""

    @abstractmethod
    def _layer(
        self, index: int, hidden: ir.Value, context: LayerContext, wanted: ir.Value | None
    ) -> ir.Value:
        """Record one layer: ``[T, hidden]`` to ``[T, hidden]``.

        Args:
            index: The layer, from 0.
            hidden: ``[T, hidden]``.
            context: What all layers share.
            wanted: ``[B]`` packed indices of the tokens that are wanted of it, all that is
                computed behind attention; None for all.
        """

    def _unrotated(self, pooled: ir.Value) -> ir.Value:
        """Record the way back from rotated hidden states, where the model has them."""
        return pooled

    def _wanted(self, hidden: ir.Value, wanted: ir.Value | None) -> ir.Value:
        """Record the choice of the wanted tokens of ``[T, hidden]``, for all that comes behind."""
        if wanted is None:
            return hidden
        self._linears.begin_rows()
        return self._graph.op("Gather", [hidden, wanted], "wanted", {"axis": 0})

    def _final_norm(self, hidden: ir.Value) -> ir.Value:
        """Record the norm behind the last layer, where there is one."""
        return hidden

    def _embed(self, name: str, shape: tuple[int, int], input_ids: ir.Value) -> ir.Value:
        """Look the tokens up in the table of word embeddings: ``[T, hidden]``."""
        graph = self._graph
        if self._rounded_words is not None:
            bits = word_bits(self._checkpoint.config, self._rounded_words)
            return build_rounded_words(
                graph, self._checkpoint, name, shape, input_ids, bits=bits, dtype=self._dtype
            )
        return graph.op("Gather", [self._tensor(name, shape), input_ids], "words", {"axis": 0})

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

"""Packed graph of BERT and XLM-RoBERTa: learned positions, norm behind each residual, GELU."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from lasttoken_export.graph.attention import build_attention, build_key_mask
from lasttoken_export.graph.encoder import EncoderGraph
from lasttoken_export.graph.linear_layer import Fold
from lasttoken_export.graph.packed_graph import LayerContext
from lasttoken_export.graph.packed_rows import PackedRows


class BertGraph(EncoderGraph):
    """See `PackedGraph`."""

    def _context(self, rows: PackedRows, rotary_positions: int) -> LayerContext:
        del rotary_positions  # positions are learned
        return LayerContext(rows=rows, rotary=None, key_mask=build_key_mask(self._graph, rows))

    def _embeddings(self, input_ids: ir.Value, rows: PackedRows) -> ir.Value:
        with self._graph.scope("embeddings"):
            return self._positioned(input_ids, rows)

    def _positioned(self, input_ids: ir.Value, rows: PackedRows) -> ir.Value:
        graph, config, size = self._graph, self._config, self._config.hidden_size
        words = "embeddings.word_embeddings.weight"
        hidden = self._embed(words, (config.vocab_size, size), input_ids)
        table = self._tensor(
            "embeddings.position_embeddings.weight",
            (config.max_positions + config.position_offset, size),
        )
        offset = graph.constant(np.asarray(config.position_offset, np.int64))
        axis_0 = graph.constant(np.asarray([0], np.int64))
        position = graph.op("Squeeze", [rows.positions, axis_0], "position")
        positions = graph.op("Add", [position, offset], "position_rows")
        learned = graph.op("Gather", [table, positions], "position_embeddings", {"axis": 0})
        # A text alone is all of the first type.
        types = self._tensor(
            "embeddings.token_type_embeddings.weight", (config.type_vocab_size, size)
        )
        first_type = graph.op("Gather", [types, axis_0], "first_type", {"axis": 0})  # [1, hidden]
        hidden = graph.op("Add", [hidden, first_type], "typed")
        hidden = graph.op("Add", [hidden, learned], "positioned")
        return self._norm("embeddings.LayerNorm", hidden)

    def _layer(
        self, index: int, hidden: ir.Value, context: LayerContext, wanted: ir.Value | None
    ) -> ir.Value:
        graph, config, size = self._graph, self._config, self._config.hidden_size
        prefix = f"encoder.layer.{index}"
        # What enters the other layers is a residual too, or comes out of GELU: it cannot be scaled.
        out_fold = Fold.one_to_one(
            f"{prefix}.attention.output.dense", size, head_dim=config.head_dim
        )
        queries_keys, values = self._blocks.linear(
            [(f"{prefix}.attention.self.{part}", size) for part in ("query", "key", "value")],
            hidden,
            size,
            f"{prefix}.attention.self.qkv",
            bias=True,
            outputs=[("queries_keys", 2 * size), ("values", size)],
            smooths=[(out_fold, 2 * size)],
        )
        attended = build_attention(
            graph,
            queries_keys,
            values,
            context.rows,
            num_heads=config.num_heads,
            num_kv_heads=config.num_heads,
            head_dim=config.head_dim,
            key_mask=context.key_mask,
            wanted=wanted,
        )
        hidden = self._wanted(hidden, wanted)
        (projected,) = self._blocks.linear(
            [(out_fold.linear, size)], attended, size, bias=True, fold=out_fold
        )
        hidden = graph.op("Add", [projected, hidden], "attention_residual")
        hidden = self._norm(f"{prefix}.attention.output.LayerNorm", hidden)
        (inner,) = self._blocks.linear(
            [(f"{prefix}.intermediate.dense", config.intermediate_size)], hidden, size, bias=True
        )
        activated = graph.op("Gelu", [inner], "gelu")
        (outer,) = self._blocks.linear(
            [(f"{prefix}.output.dense", size)], activated, config.intermediate_size, bias=True
        )
        hidden = graph.op("Add", [outer, hidden], "mlp_residual")
        return self._norm(f"{prefix}.output.LayerNorm", hidden)

"""Packed graph of BERT and XLM-RoBERTa: learned positions, norm behind each residual, GELU."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from lasttoken_export.graph.attention import build_attention, build_key_mask
from lasttoken_export.graph.encoder import EncoderGraph
from lasttoken_export.graph.packed_rows import PackedRows


class BertGraph(EncoderGraph):
    """See `PackedGraph`."""

    def _body(self, input_ids: ir.Value, rows: PackedRows, rotary_positions: int) -> ir.Value:
        del rotary_positions  # positions are learned
        graph = self._graph
        key_mask = build_key_mask(graph, rows)
        with graph.scope("embeddings"):
            hidden = self._embeddings(input_ids, rows)
        for index in range(self._num_layers):
            with graph.scope(f"layers.{index}"):
                hidden = self._layer(f"encoder.layer.{index}", hidden, rows, key_mask)
        return hidden

    def _embeddings(self, input_ids: ir.Value, rows: PackedRows) -> ir.Value:
        graph, config, size = self._graph, self._config, self._config.hidden_size
        words = self._tensor("embeddings.word_embeddings.weight", (config.vocab_size, size))
        hidden = graph.op("Gather", [words, input_ids], "word_embeddings", {"axis": 0})
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
        self, prefix: str, hidden: ir.Value, rows: PackedRows, key_mask: ir.Value
    ) -> ir.Value:
        graph, config, size = self._graph, self._config, self._config.hidden_size
        qkv = self._linear(
            [(f"{prefix}.attention.self.{part}", size) for part in ("query", "key", "value")],
            hidden,
            size,
            f"{prefix}.attention.self.qkv",
            bias=True,
        )
        queries_keys, values = graph.split(qkv, [2 * size, size], ["queries_keys", "values"])
        attended = build_attention(
            graph,
            queries_keys,
            values,
            rows,
            num_heads=config.num_heads,
            num_kv_heads=config.num_heads,
            head_dim=config.head_dim,
            key_mask=key_mask,
        )
        projected = self._linear(
            [(f"{prefix}.attention.output.dense", size)], attended, size, bias=True
        )
        hidden = graph.op("Add", [projected, hidden], "attention_residual")
        hidden = self._norm(f"{prefix}.attention.output.LayerNorm", hidden)
        inner = self._linear(
            [(f"{prefix}.intermediate.dense", config.intermediate_size)], hidden, size, bias=True
        )
        activated = graph.op("Gelu", [inner], "gelu")
        outer = self._linear(
            [(f"{prefix}.output.dense", size)], activated, config.intermediate_size, bias=True
        )
        hidden = graph.op("Add", [outer, hidden], "mlp_residual")
        return self._norm(f"{prefix}.output.LayerNorm", hidden)

"""Packed graph of NomicBERT: rotary positions, norm behind each residual, SwiGLU, no biases."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from lasttoken_export.graph.attention import (
    RotaryCaches,
    build_attention,
    build_key_mask,
    build_rotary,
)
from lasttoken_export.graph.encoder import EncoderGraph
from lasttoken_export.graph.packed_rows import PackedRows


class NomicBertGraph(EncoderGraph):
    """See `PackedGraph`."""

    def _body(self, input_ids: ir.Value, rows: PackedRows, rotary_positions: int) -> ir.Value:
        graph, config, size = self._graph, self._config, self._config.hidden_size
        assert config.rope_theta is not None
        rotary = self._rotary_caches(
            theta=config.rope_theta, head_dim=config.head_dim, positions=rotary_positions
        )
        key_mask = build_key_mask(graph, rows)
        with graph.scope("embeddings"):
            words = self._tensor("embeddings.word_embeddings.weight", (config.vocab_size, size))
            hidden = graph.op("Gather", [words, input_ids], "word_embeddings", {"axis": 0})
            types = self._tensor(
                "embeddings.token_type_embeddings.weight", (config.type_vocab_size, size)
            )
            axis_0 = graph.constant(np.asarray([0], np.int64))
            first_type = graph.op("Gather", [types, axis_0], "first_type", {"axis": 0})
            hidden = self._norm("emb_ln", graph.op("Add", [hidden, first_type], "typed"))
        for index in range(self._num_layers):
            with graph.scope(f"layers.{index}"):
                hidden = self._layer(f"encoder.layers.{index}", hidden, rows, rotary, key_mask)
        return hidden

    def _layer(
        self,
        prefix: str,
        hidden: ir.Value,
        rows: PackedRows,
        rotary: RotaryCaches,
        key_mask: ir.Value,
    ) -> ir.Value:
        graph, config, size = self._graph, self._config, self._config.hidden_size
        inner = config.intermediate_size
        qkv = self._linear([(f"{prefix}.attn.Wqkv", 3 * size)], hidden, size)
        queries_keys, values = graph.split(qkv, [2 * size, size], ["queries_keys", "values"])
        attended = build_attention(
            graph,
            build_rotary(graph, queries_keys, rows, rotary, heads=2 * config.num_heads),
            values,
            rows,
            num_heads=config.num_heads,
            num_kv_heads=config.num_heads,
            head_dim=config.head_dim,
            key_mask=key_mask,
        )
        projected = self._linear([(f"{prefix}.attn.out_proj", size)], attended, size)
        hidden = graph.op("Add", [projected, hidden], "attention_residual")
        hidden = self._norm(f"{prefix}.norm1", hidden)
        up_gate = self._linear(
            [(f"{prefix}.mlp.fc11", inner), (f"{prefix}.mlp.fc12", inner)],
            hidden, size, f"{prefix}.mlp.fc11_fc12",
        )  # fmt: skip
        up, gate = graph.split(up_gate, [inner, inner], ["up", "gate"])
        silu = graph.op("Mul", [gate, graph.op("Sigmoid", [gate], "gate_sigmoid")], "silu")
        activated = graph.op("Mul", [up, silu], "activated")
        down = self._linear([(f"{prefix}.mlp.fc2", size)], activated, inner)
        hidden = graph.op("Add", [down, hidden], "mlp_residual")
        return self._norm(f"{prefix}.norm2", hidden)

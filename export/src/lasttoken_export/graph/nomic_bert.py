"""Packed graph of NomicBERT: rotary positions, norm behind each residual, SwiGLU, no biases."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from lasttoken_export.graph.attention import build_attention, build_key_mask, build_rotary
from lasttoken_export.graph.encoder import EncoderGraph
from lasttoken_export.graph.linear_layer import Fold
from lasttoken_export.graph.packed_graph import LayerContext
from lasttoken_export.graph.packed_rows import PackedRows


class NomicBertGraph(EncoderGraph):
    """See `PackedGraph`."""

    def _context(self, rows: PackedRows, rotary_positions: int) -> LayerContext:
        config = self._config
        assert config.rope_theta is not None
        rotary = self._rotary_caches(
            theta=config.rope_theta, head_dim=config.head_dim, positions=rotary_positions
        )
        key_mask = build_key_mask(self._graph, rows)
        return LayerContext(rows=rows, rotary=rotary, key_mask=key_mask)

    def _embeddings(self, input_ids: ir.Value, rows: PackedRows) -> ir.Value:
        del rows  # positions enter in the layers
        graph, config, size = self._graph, self._config, self._config.hidden_size
        with graph.scope("embeddings"):
            words = "embeddings.word_embeddings.weight"
            hidden = self._embed(words, (config.vocab_size, size), input_ids)
            types = self._tensor(
                "embeddings.token_type_embeddings.weight", (config.type_vocab_size, size)
            )
            axis_0 = graph.constant(np.asarray([0], np.int64))
            first_type = graph.op("Gather", [types, axis_0], "first_type", {"axis": 0})
            return self._norm("emb_ln", graph.op("Add", [hidden, first_type], "typed"))

    def _layer(
        self, index: int, hidden: ir.Value, context: LayerContext, wanted: ir.Value | None
    ) -> ir.Value:
        graph, config, size = self._graph, self._config, self._config.hidden_size
        prefix = f"encoder.layers.{index}"
        assert context.rotary is not None
        # What enters the other layers is a residual too: it cannot be scaled.
        out_fold = Fold.one_to_one(f"{prefix}.attn.out_proj", size, head_dim=config.head_dim)
        queries_keys, values = self._blocks.linear(
            [(f"{prefix}.attn.Wqkv", 3 * size)],
            hidden,
            size,
            outputs=[("queries_keys", 2 * size), ("values", size)],
            smooths=[(out_fold, 2 * size)],
        )
        attended = build_attention(
            graph,
            build_rotary(
                graph, queries_keys, context.rows, context.rotary, heads=2 * config.num_heads
            ),
            values,
            context.rows,
            num_heads=config.num_heads,
            num_kv_heads=config.num_heads,
            head_dim=config.head_dim,
            key_mask=context.key_mask,
            wanted=wanted,
        )
        hidden = self._wanted(hidden, wanted)
        (projected,) = self._blocks.linear([(out_fold.linear, size)], attended, size, fold=out_fold)
        hidden = graph.op("Add", [projected, hidden], "attention_residual")
        hidden = self._norm(f"{prefix}.norm1", hidden)
        down = self._blocks.swiglu(
            [("up", f"{prefix}.mlp.fc11"), ("gate", f"{prefix}.mlp.fc12")],
            hidden,
            name=f"{prefix}.mlp.fc11_fc12",
            down=f"{prefix}.mlp.fc2",
            inner=config.intermediate_size,
        )
        hidden = graph.op("Add", [down, hidden], "mlp_residual")
        return self._norm(f"{prefix}.norm2", hidden)

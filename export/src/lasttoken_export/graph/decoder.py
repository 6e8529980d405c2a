"""Packed graph of the decoders: pre-norm, rotary, grouped queries, SwiGLU.

Mistral and Llama; Qwen2 adds biases to queries, keys and values; Qwen3 normalises each of their
heads. Every token-wise operator runs on the packed tokens ``[T, hidden]``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from lasttoken_export.decoder_config import DecoderConfig
from lasttoken_export.graph.attention import (
    RotaryCaches,
    build_attention,
    build_key_mask,
    build_rotary,
)
from lasttoken_export.graph.packed_graph import PackedGraph
from lasttoken_export.graph.packed_rows import PackedRows


class DecoderGraph(PackedGraph):
    """See `PackedGraph`."""

    @property
    def _config(self) -> DecoderConfig:
        config = self._checkpoint.config
        assert isinstance(config, DecoderConfig)
        return config

    def _body(self, input_ids: ir.Value, rows: PackedRows, rotary_positions: int) -> ir.Value:
        graph, config = self._graph, self._config
        rotary = self._rotary_caches(
            theta=config.rope_theta, head_dim=config.head_dim, positions=rotary_positions
        )
        causal = self._contract.attention == "causal"
        key_mask = None if causal else build_key_mask(graph, rows)
        embeddings = self._tensor("embed_tokens.weight", (config.vocab_size, config.hidden_size))
        hidden = graph.op("Gather", [embeddings, input_ids], "token_embeddings", {"axis": 0})
        for index in range(self._num_layers):
            with graph.scope(f"layers.{index}"):
                hidden = self._attention_block(index, hidden, rows, rotary, key_mask)
                hidden = self._mlp_block(index, hidden)
        return hidden

    def _final_norm(self, hidden: ir.Value) -> ir.Value:
        return self._rms_norm("norm", hidden)

    def _attention_block(
        self,
        index: int,
        hidden: ir.Value,
        rows: PackedRows,
        rotary: RotaryCaches,
        key_mask: ir.Value | None,
    ) -> ir.Value:
        graph, config, prefix = self._graph, self._config, f"layers.{index}"
        q_size, kv_size = config.queries_size, config.keys_size
        normed = self._rms_norm(f"{prefix}.input_layernorm", hidden)
        qkv = self._linear(
            [(f"{prefix}.self_attn.{part}_proj", size)
             for part, size in (("q", q_size), ("k", kv_size), ("v", kv_size))],
            normed, config.hidden_size, f"{prefix}.self_attn.qkv_proj", bias=config.qkv_bias,
        )  # fmt: skip
        queries_keys, values = graph.split(
            qkv, [q_size + kv_size, kv_size], ["queries_keys", "values"]
        )
        if config.qk_norm:
            queries_keys = self._norm_heads(f"{prefix}.self_attn", queries_keys)
        heads = config.num_heads + config.num_kv_heads
        attended = build_attention(
            graph,
            build_rotary(graph, queries_keys, rows, rotary, heads=heads),
            values,
            rows,
            num_heads=config.num_heads,
            num_kv_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            key_mask=key_mask,
        )
        projected = self._linear(
            [(f"{prefix}.self_attn.o_proj", config.hidden_size)], attended, q_size
        )
        return graph.op("Add", [hidden, projected], "attention_residual")

    def _mlp_block(self, index: int, hidden: ir.Value) -> ir.Value:
        graph, config, prefix = self._graph, self._config, f"layers.{index}"
        normed = self._rms_norm(f"{prefix}.post_attention_layernorm", hidden)
        gate_up = self._linear(
            [(f"{prefix}.mlp.{part}_proj", config.intermediate_size) for part in ("gate", "up")],
            normed, config.hidden_size, f"{prefix}.mlp.gate_up_proj",
        )  # fmt: skip
        gate, up = graph.split(gate_up, [config.intermediate_size] * 2, ["gate", "up"])
        silu = graph.op("Mul", [gate, graph.op("Sigmoid", [gate], "gate_sigmoid")], "silu")
        activated = graph.op("Mul", [silu, up], "activated")
        down = self._linear(
            [(f"{prefix}.mlp.down_proj", config.hidden_size)], activated, config.intermediate_size
        )
        return graph.op("Add", [hidden, down], "mlp_residual")

    def _norm_heads(self, prefix: str, queries_keys: ir.Value) -> ir.Value:
        """Normalise each head of queries and keys; its weights differ, so they come behind."""
        graph, config = self._graph, self._config
        heads, head_dim = (config.num_heads, config.num_kv_heads), config.head_dim

        def read() -> NDArray[Any]:
            weight = np.empty((sum(heads), head_dim), self._numpy_dtype)
            weight[: heads[0]] = self._checkpoint.read(f"{prefix}.q_norm.weight")
            weight[heads[0] :] = self._checkpoint.read(f"{prefix}.k_norm.weight")
            return weight

        by_head = graph.op(
            "Reshape",
            [queries_keys, graph.constant(np.asarray([-1, sum(heads), head_dim], np.int64))],
            "queries_keys_heads",
        )
        normed = graph.op(
            "RMSNormalization",
            [by_head, self._constant(np.ones(head_dim))],
            "queries_keys_norm",
            {"axis": -1, "epsilon": config.rms_norm_eps, "stash_type": 1},
        )
        weight = graph.weight(f"{prefix}.qk_norm.weight", (sum(heads), head_dim), self._dtype, read)
        weighted = graph.op("Mul", [normed, weight], "queries_keys_weighted")
        flat = graph.constant(np.asarray([-1, sum(heads) * head_dim], np.int64))
        return graph.op("Reshape", [weighted, flat], "queries_keys_normed")

    def _rms_norm(self, name: str, value: ir.Value) -> ir.Value:
        return self._graph.op(
            "RMSNormalization",
            [value, self._tensor(f"{name}.weight", (self._config.hidden_size,))],
            name.rpartition(".")[2],
            {"axis": -1, "epsilon": self._config.rms_norm_eps, "stash_type": 1},
        )

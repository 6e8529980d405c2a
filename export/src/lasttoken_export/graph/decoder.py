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
from lasttoken_export.graph.attention import build_attention, build_key_mask, build_rotary
from lasttoken_export.graph.kept_tokens import KeptTokens
from lasttoken_export.graph.linear_layer import Fold
from lasttoken_export.graph.packed_graph import LayerContext, PackedGraph
from lasttoken_export.graph.packed_rows import PackedRows
from lasttoken_export.quantisation.rotated_checkpoint import UNROTATION


class DecoderGraph(PackedGraph):
    """See `PackedGraph`."""

    @property
    def _config(self) -> DecoderConfig:
        config = self._checkpoint.config
        assert isinstance(config, DecoderConfig)
        return config

    def _kept_tokens(self) -> KeptTokens:
        return KeptTokens(
            self._graph,
            layers=self._num_layers,
            width=self._config.keys_size,
            dtype=self._dtype,
        )

    def _context(self, rows: PackedRows, rotary_positions: int) -> LayerContext:
        config = self._config
        rotary = self._rotary_caches(
            theta=config.rope_theta, head_dim=config.head_dim, positions=rotary_positions
        )
        causal = self._contract.attention == "causal"
        key_mask = None if causal else build_key_mask(self._graph, rows)
        return LayerContext(rows=rows, rotary=rotary, key_mask=key_mask)

    def _embeddings(self, input_ids: ir.Value, rows: PackedRows) -> ir.Value:
        del rows  # positions enter in the layers
        shape = (self._config.vocab_size, self._config.hidden_size)
        return self._embed("embed_tokens.weight", shape, input_ids)

    def _layer(
        self, index: int, hidden: ir.Value, context: LayerContext, wanted: ir.Value | None
    ) -> ir.Value:
        hidden = self._attention_block(index, hidden, context, wanted)
        return self._mlp_block(index, hidden)

    def _final_norm(self, hidden: ir.Value) -> ir.Value:
        return self._rms_norm("norm", hidden)

    def _unrotated(self, pooled: ir.Value) -> ir.Value:
        if UNROTATION not in self._checkpoint.names():
            return pooled
        size = self._config.hidden_size
        return self._graph.op(
            "MatMul", [pooled, self._tensor(UNROTATION, (size, size))], "unrotated"
        )

    def _attention_block(
        self, index: int, hidden: ir.Value, context: LayerContext, wanted: ir.Value | None
    ) -> ir.Value:
        graph, config, prefix = self._graph, self._config, f"layers.{index}"
        q_size, kv_size = config.queries_size, config.keys_size
        assert context.rotary is not None
        qkv_fold = Fold.one_to_one(f"{prefix}.self_attn.qkv_proj", config.hidden_size)
        # Attention mixes values without changing their channel; grouped heads share values.
        out_fold = Fold(
            linear=f"{prefix}.self_attn.o_proj",
            channels=np.arange(kv_size)
            .reshape(config.num_kv_heads, 1, config.head_dim)
            .repeat(config.num_heads // config.num_kv_heads, axis=1)
            .ravel(),
            size=kv_size,
            head_dim=config.head_dim,
        )
        normed = self._rms_norm(f"{prefix}.input_layernorm", hidden, smooths=qkv_fold)
        queries_keys, values = self._blocks.linear(
            [(f"{prefix}.self_attn.{part}_proj", size)
             for part, size in (("q", q_size), ("k", kv_size), ("v", kv_size))],
            normed, config.hidden_size, qkv_fold.linear, bias=config.qkv_bias,
            outputs=[("queries_keys", q_size + kv_size), ("values", kv_size)],
            fold=qkv_fold, smooths=[(out_fold, q_size + kv_size)],
        )  # fmt: skip
        if config.qk_norm:
            queries_keys = self._norm_heads(f"{prefix}.self_attn", queries_keys)
        heads = config.num_heads + config.num_kv_heads
        attended = build_attention(
            graph,
            build_rotary(graph, queries_keys, context.rows, context.rotary, heads=heads),
            values,
            context.rows,
            num_heads=config.num_heads,
            num_kv_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            key_mask=context.key_mask,
            wanted=wanted,
        )
        hidden = self._wanted(hidden, wanted)
        (projected,) = self._blocks.linear(
            [(out_fold.linear, config.hidden_size)],
            attended,
            q_size,
            fold=out_fold,
            adds_to_states=True,
        )
        return graph.op("Add", [hidden, projected], "attention_residual")

    def _mlp_block(self, index: int, hidden: ir.Value) -> ir.Value:
        graph, config, prefix = self._graph, self._config, f"layers.{index}"
        gate_up_fold = Fold.one_to_one(f"{prefix}.mlp.gate_up_proj", config.hidden_size)
        normed = self._rms_norm(f"{prefix}.post_attention_layernorm", hidden, smooths=gate_up_fold)
        down = self._blocks.swiglu(
            [(what, f"{prefix}.mlp.{what}_proj") for what in ("gate", "up")],
            normed,
            name=gate_up_fold.linear,
            down=f"{prefix}.mlp.down_proj",
            inner=config.intermediate_size,
            fold=gate_up_fold,
            adds_to_states=True,
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

    def _rms_norm(self, name: str, value: ir.Value, *, smooths: Fold | None = None) -> ir.Value:
        weight = self._tensor(f"{name}.weight", (self._config.hidden_size,), smooths=smooths)
        return self._graph.op(
            "RMSNormalization",
            [value, weight],
            name.rpartition(".")[2],
            {"axis": -1, "epsilon": self._config.rms_norm_eps, "stash_type": 1},
        )

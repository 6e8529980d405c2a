"""The packed graph of the Mistral/Llama family: pre-norm decoder, rotary, grouped queries, SwiGLU.

``build_decoder`` needs a checkpoint's configuration and a way to read one tensor; it reads nothing
itself. Every token-wise operator runs on the packed tokens ``[T, hidden]``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from lasttoken_export.checkpoint import Checkpoint
from lasttoken_export.decoder_config import DecoderConfig
from lasttoken_export.graph.attention import RotaryCaches, build_attention, rotary_cache_arrays
from lasttoken_export.graph.builder import GraphBuilder
from lasttoken_export.graph.packed_rows import PackedRows, build_packed_rows
from lasttoken_export.graph.pooling import build_l2_normalize, build_last_token

FLOAT_TYPES: dict[str, tuple[ir.DataType, np.dtype[Any]]] = {
    "fp32": (ir.DataType.FLOAT, np.dtype(np.float32)),
    "fp16": (ir.DataType.FLOAT16, np.dtype(np.float16)),
}


class DecoderGraph:
    """Builds the graph of one checkpoint in one precision."""

    def __init__(self, checkpoint: Checkpoint, *, precision: str) -> None:
        self._checkpoint = checkpoint
        self._config: DecoderConfig = checkpoint.config
        self._dtype, self._numpy_dtype = FLOAT_TYPES[precision]
        self._graph = GraphBuilder("packed_decoder")

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
        graph, config = self._graph, self._config
        input_ids = graph.input("input_ids", ir.DataType.INT32, ["tokens"])
        row_lengths = graph.input("row_lengths", ir.DataType.INT32, ["rows"])
        slots = graph.input("slots", ir.DataType.INT32, ["longest_row"])
        rows = build_packed_rows(graph, input_ids, row_lengths, slots)
        rotary = self._rotary_caches(rotary_positions)

        embeddings = self._tensor("embed_tokens.weight", (config.vocab_size, config.hidden_size))
        hidden = graph.op("Gather", [embeddings, input_ids], "token_embeddings", {"axis": 0})
        for index in range(config.num_layers):
            with graph.scope(f"layers.{index}"):
                hidden = self._layer(index, hidden, rows, rotary)
        pooled = build_last_token(graph, hidden, rows)  # before the norm: B rows of it, not T
        pooled = self._norm("norm", pooled)
        embedding = build_l2_normalize(graph, pooled, "embedding")
        embedding.shape = ir.Shape(["rows", config.hidden_size])
        return graph.model([embedding], producer="lasttoken-export", version=version)

    def _layer(
        self, index: int, hidden: ir.Value, rows: PackedRows, rotary: RotaryCaches
    ) -> ir.Value:
        graph, config, prefix = self._graph, self._config, f"layers.{index}"
        q_size = config.num_heads * config.head_dim
        kv_size = config.num_kv_heads * config.head_dim

        normed = self._norm(f"{prefix}.input_layernorm", hidden)
        qkv = self._linear(
            [(f"{prefix}.self_attn.{part}_proj", size)
             for part, size in (("q", q_size), ("k", kv_size), ("v", kv_size))],
            normed, config.hidden_size, f"{prefix}.self_attn.qkv_proj",
        )  # fmt: skip
        attended = build_attention(
            graph,
            qkv,
            rows,
            rotary,
            num_heads=config.num_heads,
            num_kv_heads=config.num_kv_heads,
            head_dim=config.head_dim,
        )
        projected = self._linear(
            [(f"{prefix}.self_attn.o_proj", config.hidden_size)], attended, q_size
        )
        hidden = graph.op("Add", [hidden, projected], "attention_residual")

        normed = self._norm(f"{prefix}.post_attention_layernorm", hidden)
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

    def _linear(
        self,
        parts: list[tuple[str, int]],
        value: ir.Value,
        in_features: int,
        name: str | None = None,
    ) -> ir.Value:
        """Multiply by the weights of one or several linear layers, side by side."""
        name = name or parts[0][0]

        def read() -> NDArray[Any]:
            fused = np.empty((in_features, sum(size for _, size in parts)), self._numpy_dtype)
            column = 0
            for part, size in parts:
                fused[:, column : column + size] = self._checkpoint.read(f"{part}.weight").T
                column += size
            return fused

        shape = (in_features, sum(size for _, size in parts))
        weight = self._graph.weight(f"{name}.weight", shape, self._dtype, read)
        return self._graph.op("MatMul", [value, weight], name.rpartition(".")[2])

    def _norm(self, name: str, value: ir.Value) -> ir.Value:
        return self._graph.op(
            "RMSNormalization",
            [value, self._tensor(f"{name}.weight", (self._config.hidden_size,))],
            name.rpartition(".")[2],
            {"axis": -1, "epsilon": self._config.rms_norm_eps, "stash_type": 1},
        )

    def _tensor(self, name: str, shape: tuple[int, ...]) -> ir.Value:
        def read() -> NDArray[Any]:
            return self._checkpoint.read(name).astype(self._numpy_dtype, copy=False)

        return self._graph.weight(name, shape, self._dtype, read)

    def _rotary_caches(self, positions: int) -> RotaryCaches:
        config = self._config

        def cache(which: int, name: str) -> ir.Value:
            def read() -> NDArray[Any]:
                arrays = rotary_cache_arrays(
                    theta=config.rope_theta, head_dim=config.head_dim, positions=positions
                )
                return arrays[which].astype(self._numpy_dtype)

            shape = (positions, config.head_dim // 2)
            return self._graph.weight(f"rotary.{name}", shape, self._dtype, read)

        return RotaryCaches(cos=cache(0, "cos"), sin=cache(1, "sin"))

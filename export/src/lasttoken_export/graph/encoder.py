"""What the packed graphs of the encoders share: their configuration and their norm."""

from __future__ import annotations

from abc import ABC

import onnx_ir as ir

from lasttoken_export.encoder_config import EncoderConfig
from lasttoken_export.graph.packed_graph import PackedGraph


class EncoderGraph(PackedGraph, ABC):
    """See `PackedGraph`."""

    @property
    def _config(self) -> EncoderConfig:
        config = self._checkpoint.config
        assert isinstance(config, EncoderConfig)
        return config

    def _norm(self, name: str, value: ir.Value) -> ir.Value:
        config = self._config
        return self._layer_norm(name, value, size=config.hidden_size, epsilon=config.layer_norm_eps)

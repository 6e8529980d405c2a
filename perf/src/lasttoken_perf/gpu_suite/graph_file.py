"""The packed graph of the random weights alone, without what a server needs around it."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from lasttoken_export.graph.model_graph import model_graph
from lasttoken_export.graph.packed_graph import EmbeddingContract
from lasttoken_perf.gpu_suite.random_weights import RandomWeights

TARGETS = {
    "CPUExecutionProvider": "onnxruntime",
    "CUDAExecutionProvider": "onnxruntime-cuda",
}
"""The exporter's ``--runtime`` by ONNX Runtime's execution provider."""
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
"""By the suite's device."""
_ROTARY_POSITIONS = 8192


def save_packed_graph(
    weights: RandomWeights, graph: Path, *, precision: str, provider: str
) -> None:
    """Write the graph, its weights beside it.

    Args:
        weights: The weights.
        graph: Path of encoder.onnx; its folder is created.
        precision: One that the provider runs.
        provider: Key of `TARGETS`.
    """
    graph.parent.mkdir(parents=True, exist_ok=True)
    model = model_graph(
        weights, precision=precision, contract=EmbeddingContract(), target=TARGETS[provider]
    ).build(rotary_positions=_ROTARY_POSITIONS, version="0", shares_prefixes=True)
    ir.save(model, graph, external_data=f"{graph.name}.data")

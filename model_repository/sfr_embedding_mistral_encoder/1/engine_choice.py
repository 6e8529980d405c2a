"""Which engine runs a model: its settings say."""

from __future__ import annotations

from pathlib import Path

from encoder_settings import EncoderSettings
from engine import Engine
from onnxruntime_engine import OnnxRuntimeEngine
from padded_engine import PaddedEngine


def open_engine(version_folder: Path, settings: EncoderSettings) -> Engine:
    """Load the graph in a version's folder.

    Args:
        version_folder: Holds encoder.onnx.
        settings: Name the runtime and the form of the graph.

    Raises:
        RuntimeError: The runtime is not installed.
    """
    kind = PaddedEngine if settings.graph_form == "padded" else OnnxRuntimeEngine
    return kind(
        version_folder / "encoder.onnx",
        runtime=settings.runtime,
        intra_op_threads=settings.intra_op_threads,
    )

"""Which engine runs a model: its settings say."""

from __future__ import annotations

import logging
from pathlib import Path

from cores import limited_cores
from encoder_settings import PLAN_RUNTIMES, EncoderSettings
from engine import Engine
from onnxruntime_engine import OnnxRuntimeEngine
from padded_engine import PaddedEngine
from processor import int8_products_saturate, processor_flags
from tensorrt_engine import open_tensorrt_engine

_log = logging.getLogger(__name__)


def open_engine(version_folder: Path, settings: EncoderSettings) -> Engine:
    """Load the graph, or the plan, in a version's folder.

    Args:
        version_folder: Holds encoder.onnx or encoder.plan.
        settings: Name the runtime and the form of the graph.

    Raises:
        RuntimeError: The runtime is not installed, or the plan does not run here.
    """
    if settings.runtime in PLAN_RUNTIMES:
        return open_tensorrt_engine(version_folder, settings)
    if settings.precision == "int8" and int8_products_saturate(processor_flags()):
        _log.warning(
            "this processor has no VNNI: int8 is as exact as elsewhere and saves memory, but not "
            "much time; see docs/precisions.md"
        )
    if not settings.intra_op_threads and (cores := limited_cores()) is not None:
        _log.warning(
            "CPU limit or affinity: the server may use %d of the cores, and has so many threads",
            cores,
        )
    kind = PaddedEngine if settings.graph_form == "padded" else OnnxRuntimeEngine
    return kind(
        version_folder / "encoder.onnx",
        runtime=settings.runtime,
        intra_op_threads=settings.intra_op_threads,
    )

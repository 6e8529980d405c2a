"""Which engine runs a model: its settings say."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path

from cores import limited_cores
from encoder_settings import PLAN_RUNTIMES, EncoderSettings
from engine import Engine
from onnxruntime_engine import OnnxRuntimeEngine
from padded_engine import PaddedEngine
from processor import int8_products_saturate, processor_flags
from streams import are_exact, streams_of
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
    graph, threads = version_folder / "encoder.onnx", settings.intra_op_threads
    streams = streams_of(
        graph, runtime=settings.runtime, asked=settings.streams, intra_op_threads=threads
    )
    open_with = partial(kind, graph, runtime=settings.runtime, intra_op_threads=threads)
    engine = open_with(streams=streams)
    if streams.count > 1 and not are_exact(
        engine, max_length=settings.max_length, vocab_size=settings.vocab_size
    ):
        _log.warning(
            "one batch at a time: on this processor streams would change vectors' last bits"
        )
        return open_with()
    return engine

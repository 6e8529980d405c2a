"""Which engine runs a model: its settings say."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from cores import limited_cores
from encoder_settings import PLAN_RUNTIMES, EncoderSettings
from engine import Engine
from onnxruntime_engine import OnnxRuntimeEngine
from padded_engine import PaddedEngine
from processor import int8_products_saturate, processor_flags
from streams import Streams, are_exact, streams_of
from tensorrt_engine import open_tensorrt_engine

_log = logging.getLogger(__name__)
_Engine = TypeVar("_Engine", OnnxRuntimeEngine, PaddedEngine)


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
    graph, threads = version_folder / "encoder.onnx", settings.intra_op_threads
    streams = streams_of(
        graph,
        precision=settings.precision,
        runtime=settings.runtime,
        asked=settings.streams,
        intra_op_threads=threads,
    )
    options: dict[str, Any] = {"runtime": settings.runtime, "intra_op_threads": threads}
    if settings.graph_form == "padded":
        return _with_streams(partial(PaddedEngine, graph, **options), streams, settings)
    engine = _with_streams(partial(OnnxRuntimeEngine, graph, **options), streams, settings)
    engine.keep_prefixes(settings.kept_prefix_tokens)
    return engine


def _with_streams(
    open_with: Callable[..., _Engine], streams: Streams, settings: EncoderSettings
) -> _Engine:
    engine = open_with(streams=streams)
    if streams.count == 1 or are_exact(
        engine, max_length=settings.max_length, vocab_size=settings.vocab_size
    ):
        return engine
    _log.warning("one batch at a time: on this processor streams would change vectors' last bits")
    return open_with()

"""Where ONNX Runtime runs the nodes of a graph: what a GPU provider lacks falls to the CPU."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from lasttoken_export.model_sources import ENCODER
from lasttoken_export.server_modules import server_module
from lasttoken_perf.gpu_suite.step_report import StepUnavailable

RUNTIMES = {
    "CPUExecutionProvider": "onnxruntime-cpu",
    "CUDAExecutionProvider": "onnxruntime-cuda",
}
"""The encoder's parameter ``runtime`` by the provider that it asks for."""


def has_provider(provider: str) -> bool:
    """Tell whether the installed ONNX Runtime has a provider, and its libraries are found.

    The steps have imported torch by then, whose CUDA libraries are those that it finds.

    Args:
        provider: Key of `RUNTIMES`.
    """
    if provider == "CUDAExecutionProvider":
        onnxruntime.preload_dlls()  # some builds have the provider only once they are loaded
    return provider in onnxruntime.get_available_providers()


def open_engine_on(graph: Path, provider: str) -> Any:
    """Open a graph with the server's own engine.

    Args:
        graph: Path of encoder.onnx.
        provider: Key of `RUNTIMES`.

    Raises:
        StepUnavailable: The installed ONNX Runtime has no such provider, or it does not load.
    """
    module = server_module(ENCODER, "onnxruntime_engine")
    try:
        return module.OnnxRuntimeEngine(graph, runtime=RUNTIMES[provider], intra_op_threads=0)
    except RuntimeError as error:
        raise StepUnavailable(
            f"ONNX Runtime {onnxruntime.__version__} has no working {provider}: {error}"
        ) from None


def nodes_by_provider(graph: Path, provider: str) -> dict[str, dict[str, int]]:
    """Run a small batch under ONNX Runtime's profiler and count the nodes of each provider.

    Returns:
        Provider to type of node to number of nodes.
    """
    with tempfile.TemporaryDirectory(prefix="lasttoken-profile.") as folder:
        options = onnxruntime.SessionOptions()
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        options.enable_mem_pattern = False
        session = onnxruntime.InferenceSession(graph, options, providers=[provider])
        inputs = server_module(ENCODER, "graph_inputs")
        feeds = inputs.graph_inputs(
            np.arange(3, 11, dtype=np.int32),
            np.array([5, 3], np.int32),
            shares_prefixes=inputs.has_shared_inputs(node.name for node in session.get_inputs()),
        )
        session.run(["embedding"], feeds)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    return count_nodes(events)


def count_nodes(events: list[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """Count the nodes in a profile's events, each once.

    Args:
        events: ONNX Runtime's profile; a node's run has ``cat`` Node and a name that ends in
            ``_kernel_time``.
    """
    seen = {
        event["name"]: (event["args"]["provider"], event["args"]["op_name"])
        for event in events
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")
    }
    counts: dict[str, Counter[str]] = {}
    for provider, operator in seen.values():
        counts.setdefault(provider, Counter())[operator] += 1
    return {provider: dict(sorted(count.items())) for provider, count in counts.items()}

"""The packed graph on ONNX Runtime, on the CPU or an NVIDIA GPU."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from computed_work import ComputedWork, packed_work
from cores import limited_cores
from denormals import SESSION_OPTION, denormals_are_zero, kept_environment
from numpy.typing import NDArray
from processor import EXACT_OPTIONS, int8_products_saturate, processor_flags

_PROVIDERS = {
    "onnxruntime-cpu": "CPUExecutionProvider",
    "onnxruntime-cuda": "CUDAExecutionProvider",
}
_PROVIDER_OPTIONS = {
    # Of itself CUDA rounds the inputs of float32 products to 10 bits, from compute capability 8.0.
    "CUDAExecutionProvider": {"use_tf32": "0"},
}
"""Source: https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html"""


def open_session(
    graph: Path,
    *,
    runtime: str,
    intra_op_threads: int,
    config: Mapping[str, str] | None = None,
) -> ort.InferenceSession:
    """Load a graph, on the provider asked for and no other.

    Args:
        graph: Path of the ONNX file; its external data lies beside it.
        runtime: "onnxruntime-cpu" or "onnxruntime-cuda".
        intra_op_threads: Threads of one operator; 0 for one a core that this process may use.
        config: Further entries of the session's configuration, by ONNX Runtime's keys.

    Raises:
        RuntimeError: The installed ONNX Runtime has no such execution provider, or it does not
            load.
    """
    provider = _PROVIDERS[runtime]
    if provider == "CUDAExecutionProvider":
        # CUDA's libraries out of packages of the environment, before the provider is asked for.
        ort.preload_dlls()
    if provider not in ort.get_available_providers():
        raise RuntimeError(
            f"runtime {runtime!r} needs ONNX Runtime's {provider}, which is not installed; "
            "install onnxruntime-gpu in the server's environment or set the parameter runtime "
            "to 'onnxruntime-cpu'"
        )
    options = ort.SessionOptions()
    # Of itself ONNX Runtime counts the machine's cores, whatever a container may use of them.
    options.intra_op_num_threads = intra_op_threads or limited_cores() or 0
    # Every batch has shapes of its own: planned memory would be planned anew each time.
    options.enable_mem_pattern = False
    options.add_session_config_entry(SESSION_OPTION, "1")
    # Threads wait awake for the next operator of a batch, and asleep for the next batch: between
    # two the cores are the tokenizer's, Triton's and the client's.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if int8_products_saturate(processor_flags()):
        for key, value in EXACT_OPTIONS.items():
            options.add_session_config_entry(key, value)
    for key, value in (config or {}).items():
        options.add_session_config_entry(key, value)
    with kept_environment():  # the process's first session would change this thread's for good
        session = ort.InferenceSession(
            graph,
            options,
            providers=[(provider, _PROVIDER_OPTIONS.get(provider, {}))],
            # Of itself a session goes on with the CPU, now or when a batch fails on the GPU.
            enable_fallback=0,
        )
    if session.get_providers()[0] != provider:
        raise RuntimeError(
            f"runtime {runtime!r}: ONNX Runtime's {provider} does not load here, its log says why; "
            "see that CUDA's libraries and cuDNN are installed and that nvidia-smi shows a GPU"
        )
    return session


def run_session(
    session: ort.InferenceSession, feeds: dict[str, NDArray[Any]]
) -> NDArray[np.float32]:
    """Return ``embedding [rows, dimensions]`` of a session of `open_session`."""
    with denormals_are_zero():  # this thread computes beside the session's own
        embedding: NDArray[np.float32] = session.run(["embedding"], feeds)[0]
    return embedding


class OnnxRuntimeEngine:
    """One session of one graph.

    Args:
        graph: Path of the ONNX file; its external data lies beside it.
        runtime: "onnxruntime-cpu" or "onnxruntime-cuda".
        intra_op_threads: Threads of one operator; 0 for one a core.
        config: See `open_session`.

    Raises:
        RuntimeError: The installed ONNX Runtime has no such execution provider.
    """

    def __init__(
        self,
        graph: Path,
        *,
        runtime: str,
        intra_op_threads: int,
        config: Mapping[str, str] | None = None,
    ) -> None:
        self._session = open_session(
            graph, runtime=runtime, intra_op_threads=intra_op_threads, config=config
        )
        self.runs_beside = runtime == "onnxruntime-cpu"  # on a GPU they would queue up
        # Of weights in blocks: one token alone behind so many has other last bits.
        metadata = self._session.get_modelmeta().custom_metadata_map
        self._lone_row_modulus = int(metadata.get("lone_row_modulus", "0"))
        self.dimensions: int = self._session.get_outputs()[0].shape[1]

    def encode(
        self, input_ids: NDArray[np.int32], row_lengths: NDArray[np.int32]
    ) -> NDArray[np.float32]:
        """See `engine.Engine.encode`."""
        computed_lengths = self._in_company(row_lengths)
        # A row of one token more, where it needs company: any token does.
        tokens = np.resize(input_ids, int(computed_lengths.sum()))
        # Only the shape of slots counts: the longest row.
        slots = np.zeros(int(row_lengths.max()), np.int32)
        feeds = {"input_ids": tokens, "row_lengths": computed_lengths, "slots": slots}
        return run_session(self._session, feeds)[: len(row_lengths)]

    def computed_work(self, row_lengths: NDArray[np.int32]) -> ComputedWork:
        """See `engine.Engine.computed_work`."""
        return packed_work(self._in_company(row_lengths))

    def _in_company(self, row_lengths: NDArray[np.int32]) -> NDArray[np.int32]:
        modulus = self._lone_row_modulus
        if modulus and int(row_lengths.sum()) % modulus == 1:
            return np.append(row_lengths, np.int32(1))
        return row_lengths

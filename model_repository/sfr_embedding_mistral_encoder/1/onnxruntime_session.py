"""A session of ONNX Runtime, on the provider asked for and no other."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnxruntime as ort
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
    session: ort.InferenceSession,
    feeds: dict[str, NDArray[Any]],
    outputs: Sequence[str] = ("embedding",),
) -> list[NDArray[Any]]:
    """Return outputs of a session of `open_session`; ``embedding`` is ``[rows, dimensions]``."""
    with denormals_are_zero():  # this thread computes beside the session's own
        values: list[NDArray[Any]] = session.run(outputs, feeds)
    return values


class GraphSessions:
    """The session of a graph and, for streams, others of it with a single thread each.

    Streams of one session also share its arena, which makes an int8 batch take up to 1.4 times as
    long; with a session each they do not.

    Args:
        graph: Path of the ONNX file; its external data lies beside it.
        runtime: "onnxruntime-cpu" or "onnxruntime-cuda".
        intra_op_threads: Threads of one operator; 0 for one a core that this process may use.
        stream_sessions: Sessions for the threads that call `run_in_stream`; 0 for none.
        config: See `open_session`.

    Raises:
        RuntimeError: See `open_session`.
    """

    def __init__(
        self,
        graph: Path,
        runtime: str,
        *,
        intra_op_threads: int,
        stream_sessions: int,
        config: Mapping[str, str] | None = None,
    ) -> None:
        self.whole = open_session(
            graph, runtime=runtime, intra_op_threads=intra_op_threads, config=config
        )
        usable = [self.whole] if intra_op_threads == 1 and stream_sessions else []
        self._single_threaded = usable + [
            open_session(graph, runtime=runtime, intra_op_threads=1, config=config)
            for _ in range(stream_sessions - len(usable))
        ]
        self._turns = itertools.count()
        self._of_thread = threading.local()

    def run(
        self, feeds: dict[str, NDArray[Any]], outputs: Sequence[str] = ("embedding",)
    ) -> list[NDArray[Any]]:
        """Return outputs, computed by all threads.

        Args:
            feeds: The graph's inputs by name.
            outputs: Names; ``embedding`` is ``[rows, dimensions]`` float32.
        """
        return run_session(self.whole, feeds, outputs)

    def run_in_stream(
        self, feeds: dict[str, NDArray[Any]], outputs: Sequence[str] = ("embedding",)
    ) -> list[NDArray[Any]]:
        """Return the same, computed by the calling thread, which keeps to one session."""
        try:
            session = self._of_thread.session
        except AttributeError:
            turn = next(self._turns) % len(self._single_threaded)
            session = self._of_thread.session = self._single_threaded[turn]
        return run_session(session, feeds, outputs)

"""Streams: batches computed beside each other, each on one thread, on ONNX Runtime's CPU provider.

The threads of one batch wait for each other at the end of every operator; batches with a thread
each wait for nothing. Each has a session of its own, with buffers that stay in its processor's
caches, and each session lays out the weights for its products once more: where the memory does not
allow for that, streams share sessions. The name is OpenVINO's ("High-level Performance Hints",
https://docs.openvino.ai).
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from available_memory import available_memory_bytes
from cores import limited_cores, physical_cores
from engine import StreamingEngine

_log = logging.getLogger(__name__)

_MOST = 8
"""More than so many are not begun unasked: it was not measured."""
_MEMORY_SHARE = 4
"""Unasked, nor are any whose weights take more than one part in so many of the free memory."""
_SIZE_IN_MEMORY = {"fp16": 2, "int8-weights": 2}
"""Of a session's weights to those in the file: ONNX Runtime's products take these two in wider
types than they are stored in (docs/decisions/0005-streams.md)."""


@dataclass(frozen=True, slots=True)
class Streams:
    """How a graph is computed under load.

    Attributes:
        count: Batches beside each other; 1 for one at a time, on all threads.
        sessions: Sessions that they share, each with a copy of the weights; 0 for none.
    """

    count: int
    sessions: int


ONE_AT_A_TIME = Streams(count=1, sessions=0)


def streams_of(
    graph: Path, *, precision: str, runtime: str, asked: int, intra_op_threads: int
) -> Streams:
    """Return how many streams a graph is served with, and in how many sessions.

    Args:
        graph: Path of the ONNX file; its external data lies beside it.
        precision: Of its weights, which decides how large they are in memory.
        runtime: Only "onnxruntime-cpu" has streams.
        asked: So many, or 0 for one a thread, up to 8, where the memory allows it.
        intra_op_threads: Threads of one operator; 0 for one a core that this process may use.
    """
    if runtime != "onnxruntime-cpu" or asked == 1:
        return ONE_AT_A_TIME
    threads = intra_op_threads or limited_cores() or physical_cores(os.sched_getaffinity(0))
    if not asked and not 1 < threads <= _MOST:
        return ONE_AT_A_TIME
    file_bytes = sum(file.stat().st_size for file in graph.parent.glob(f"{graph.name}*"))
    weight_bytes = file_bytes * _SIZE_IN_MEMORY.get(precision, 1)
    available = available_memory_bytes()
    copies = available // _MEMORY_SHARE // max(weight_bytes, 1)
    count = asked or threads
    if asked or copies:
        return Streams(count=count, sessions=max(1, min(count, copies)))
    _log.warning(
        "one batch at a time: a second copy of %.1f GB of weights would be more than a quarter "
        "of the %.1f GB of memory free; the parameter streams says otherwise",
        weight_bytes / 1e9, available / 1e9,
    )  # fmt: skip
    return ONE_AT_A_TIME


def are_exact(engine: StreamingEngine, *, max_length: int, vocab_size: int) -> bool:
    """Compute two batches by all threads and in a stream; tell whether every bit is the same.

    Kernels differ from one processor to the next, and only where they add in the same order with
    any number of threads is a vector independent of how busy the server is.

    Args:
        engine: Has streams.
        max_length: Longest row, in tokens.
        vocab_size: Token ids are below this.
    """
    random = np.random.default_rng(0)
    for row_lengths in ([1, 33, 64, 31], [20]):
        lengths = np.minimum(row_lengths, max_length).astype(np.int32)
        ids = random.integers(0, vocab_size, lengths.sum(), dtype=np.int32)
        if not np.array_equal(engine.encode(ids, lengths), engine.encode_in_stream(ids, lengths)):
            return False
    return True

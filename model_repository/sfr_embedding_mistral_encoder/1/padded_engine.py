"""A padded graph on ONNX Runtime: written by a general exporter, with the pooling head on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from computed_work import ComputedWork, padded_work
from numpy.typing import NDArray
from onnxruntime_session import GraphSessions
from streams import ONE_AT_A_TIME, Streams

PADDING_ID = 0
"""Fills the rows up; the mask hides it, so any id of the vocabulary would do."""


class PaddedEngine:
    """Implements `engine.StreamingEngine` for a graph of ``input_ids`` and ``attention_mask``.

    Args:
        graph: Path of the ONNX file; its external data lies beside it.
        runtime: "onnxruntime-cpu" or "onnxruntime-cuda".
        intra_op_threads: Threads of one operator; 0 for one a core.
        streams: How many batches `encode_in_stream` computes beside each other, in how many
            sessions.

    Raises:
        RuntimeError: The installed ONNX Runtime has no such execution provider.
    """

    def __init__(
        self, graph: Path, *, runtime: str, intra_op_threads: int, streams: Streams = ONE_AT_A_TIME
    ) -> None:
        self._sessions = GraphSessions(
            graph, runtime, intra_op_threads=intra_op_threads, stream_sessions=streams.sessions
        )
        self.streams = streams.count
        self.runs_beside = runtime == "onnxruntime-cpu"  # on a GPU they would queue up
        self.shares_prefixes = False
        self.dimensions: int = self._sessions.whole.get_outputs()[0].shape[1]

    def encode(
        self, input_ids: NDArray[np.int32], row_lengths: NDArray[np.int32]
    ) -> NDArray[np.float32]:
        """See `engine.Engine.encode`."""
        [vectors] = self._sessions.run(_feeds(input_ids, row_lengths))
        return vectors

    def encode_in_stream(
        self, input_ids: NDArray[np.int32], row_lengths: NDArray[np.int32]
    ) -> NDArray[np.float32]:
        """See `engine.StreamingEngine.encode_in_stream`."""
        [vectors] = self._sessions.run_in_stream(_feeds(input_ids, row_lengths))
        return vectors

    def computed_work(
        self, input_ids: NDArray[np.int32], row_lengths: NDArray[np.int32]
    ) -> ComputedWork:
        """See `engine.Engine.computed_work`."""
        return padded_work(input_ids, row_lengths)


def _feeds(
    input_ids: NDArray[np.int32], row_lengths: NDArray[np.int32]
) -> dict[str, NDArray[np.int64]]:
    padded, mask = pad_rows(input_ids, row_lengths)
    return {"input_ids": padded, "attention_mask": mask}


def pad_rows(
    input_ids: NDArray[np.int32], row_lengths: NDArray[np.int32]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Lay packed rows out side by side, each filled up behind its end.

    Args:
        input_ids: ``[T]`` tokens of all rows back to back.
        row_lengths: ``[B]``.

    Returns:
        ``[B, S]`` token ids and ``[B, S]`` mask, 1 where a token is, with S the longest row.
    """
    mask = np.arange(int(row_lengths.max())) < row_lengths[:, None]  # [B, S]
    padded = np.full(mask.shape, PADDING_ID, np.int64)
    padded[mask] = input_ids
    return padded, mask.astype(np.int64)

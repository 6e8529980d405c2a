"""The packed graph on ONNX Runtime, on the CPU or an NVIDIA GPU."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from computed_work import ComputedWork, packed_work
from graph_inputs import graph_inputs, has_shared_inputs
from numpy.typing import NDArray
from onnxruntime_session import GraphSessions
from streams import ONE_AT_A_TIME, Streams


class OnnxRuntimeEngine:
    """Implements `engine.StreamingEngine` for the packed graph.

    Args:
        graph: Path of the ONNX file; its external data lies beside it.
        runtime: "onnxruntime-cpu" or "onnxruntime-cuda".
        intra_op_threads: Threads of one operator; 0 for one a core.
        streams: How many batches `encode_in_stream` computes beside each other, in how many
            sessions.
        config: See `onnxruntime_session.open_session`.

    Raises:
        RuntimeError: The installed ONNX Runtime has no such execution provider.
    """

    def __init__(
        self,
        graph: Path,
        *,
        runtime: str,
        intra_op_threads: int,
        streams: Streams = ONE_AT_A_TIME,
        config: Mapping[str, str] | None = None,
    ) -> None:
        self._sessions = GraphSessions(
            graph,
            runtime,
            intra_op_threads=intra_op_threads,
            stream_sessions=streams.sessions,
            config=config,
        )
        self.streams = streams.count
        self.runs_beside = runtime == "onnxruntime-cpu"  # on a GPU they would queue up
        # Of weights in blocks: one token alone behind so many has other last bits.
        metadata = self._sessions.whole.get_modelmeta().custom_metadata_map
        self._lone_row_modulus = int(metadata.get("lone_row_modulus", "0"))
        inputs = self._sessions.whole.get_inputs()
        self.shares_prefixes = has_shared_inputs(node.name for node in inputs)
        self.dimensions: int = self._sessions.whole.get_outputs()[0].shape[1]

    def encode(
        self, input_ids: NDArray[np.int32], row_lengths: NDArray[np.int32]
    ) -> NDArray[np.float32]:
        """See `engine.Engine.encode`."""
        return self._sessions.run(self._feeds(input_ids, row_lengths))[: len(row_lengths)]

    def encode_in_stream(
        self, input_ids: NDArray[np.int32], row_lengths: NDArray[np.int32]
    ) -> NDArray[np.float32]:
        """See `engine.StreamingEngine.encode_in_stream`."""
        return self._sessions.run_in_stream(self._feeds(input_ids, row_lengths))[: len(row_lengths)]

    def computed_work(
        self, input_ids: NDArray[np.int32], row_lengths: NDArray[np.int32]
    ) -> ComputedWork:
        """See `engine.Engine.computed_work`."""
        feeds = self._feeds(input_ids, row_lengths)
        return packed_work(feeds["input_ids"], feeds["row_lengths"])

    def _feeds(
        self, input_ids: NDArray[np.int32], row_lengths: NDArray[np.int32]
    ) -> dict[str, NDArray[Any]]:
        feeds = graph_inputs(input_ids, row_lengths, shares_prefixes=self.shares_prefixes)
        modulus = self._lone_row_modulus
        if modulus and len(feeds["input_ids"]) % modulus == 1:
            return _in_company(feeds)
        return feeds


def _in_company(feeds: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Add a row of one token; any token does."""
    tokens = len(feeds["input_ids"])
    more = {
        "input_ids": np.resize(feeds["input_ids"], tokens + 1),
        "row_lengths": np.append(feeds["row_lengths"], np.int32(1)),
    }
    if "slots" not in feeds:
        rows = feeds["token_of_slot"]
        lone_row = np.full((1, rows.shape[1]), tokens, np.int32)
        more["token_of_slot"] = np.concatenate([rows, lone_row])
        more["slot_of_token"] = np.append(feeds["slot_of_token"], np.int32(rows.size))
    return feeds | more

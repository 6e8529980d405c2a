"""The packed graph on ONNX Runtime, on the CPU or an NVIDIA GPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from computed_work import ComputedWork, packed_work
from graph_inputs import (
    Part,
    begin_with_kept,
    gather_kept,
    graph_inputs,
    has_shared_inputs,
    in_company,
)
from kept_prefixes import Beginning, KeptPrefixes
from numpy.typing import NDArray
from onnxruntime_session import GraphSessions
from streams import ONE_AT_A_TIME, Streams

Run = Callable[..., list[NDArray[Any]]]
_FLOAT_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
"""By ONNX Runtime's names of types; bfloat16 has no kernels on the CPU."""


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
        inputs = {node.name: node for node in self._sessions.whole.get_inputs()}
        self.shares_prefixes = has_shared_inputs(inputs)
        self.dimensions: int = self._sessions.whole.get_outputs()[0].shape[1]
        self._nothing_kept = None
        if (kept := inputs.get("kept")) is not None:
            self._nothing_kept = np.zeros((0, kept.shape[1]), _FLOAT_TYPES[kept.type])
        self._prefixes: KeptPrefixes | None = None

    def keep_prefixes(self, max_tokens: int) -> None:
        """Keep what rows begin with from batch to batch, as kept_prefixes.py does.

        Args:
            max_tokens: Most tokens that are kept; 0 for none, as before the first call. Nothing is
                kept on a GPU, nor where the graph does not take it.
        """
        takes_them = self._nothing_kept is not None and self.runs_beside
        self._prefixes = KeptPrefixes(max_tokens) if max_tokens and takes_them else None

    def encode(
        self, input_ids: NDArray[np.int32], row_lengths: NDArray[np.int32]
    ) -> NDArray[np.float32]:
        """See `engine.Engine.encode`."""
        return self._run(self._sessions.run, input_ids, row_lengths)

    def encode_in_stream(
        self, input_ids: NDArray[np.int32], row_lengths: NDArray[np.int32]
    ) -> NDArray[np.float32]:
        """See `engine.StreamingEngine.encode_in_stream`."""
        return self._run(self._sessions.run_in_stream, input_ids, row_lengths)

    def computed_work(
        self, input_ids: NDArray[np.int32], row_lengths: NDArray[np.int32]
    ) -> ComputedWork:
        """See `engine.Engine.computed_work`; by what is kept now."""
        _, beginnings = self._beginnings(input_ids, row_lengths)
        inputs, parts = self._inputs(input_ids, row_lengths, beginnings)
        return packed_work(
            inputs["input_ids"], inputs["row_lengths"], kept_tokens=_count_tokens(parts)
        )

    def _run(
        self, run: Run, input_ids: NDArray[np.int32], row_lengths: NDArray[np.int32]
    ) -> NDArray[np.float32]:
        rows, beginnings = self._beginnings(input_ids, row_lengths)
        inputs, parts = self._inputs(input_ids, row_lengths, beginnings)
        feeds: dict[str, NDArray[Any]] = dict(inputs)
        if self._nothing_kept is not None:
            feeds |= gather_kept(parts, self._nothing_kept)
        if self._prefixes is None:
            return run(feeds)[0][: len(row_lengths)]
        self._prefixes.used(beginnings)
        worthy = self._prefixes.worth_keeping(rows, beginnings)
        if worthy is None:
            return run(feeds)[0][: len(row_lengths)]
        row, length = worthy
        feeds["to_keep"] = feeds["token_of_slot"][row, :length]
        vectors, keys_values = run(feeds, ("embedding", "keys_values"))
        self._prefixes.keep(rows[row][:length], keys_values)
        return vectors[: len(row_lengths)]

    def _beginnings(
        self, input_ids: NDArray[np.int32], row_lengths: NDArray[np.int32]
    ) -> tuple[list[NDArray[np.int32]], list[Beginning | None]]:
        """Return the rows and what is kept of each."""
        if self._prefixes is None:
            return [], []
        rows = np.split(input_ids, np.cumsum(row_lengths)[:-1])
        return rows, self._prefixes.find(rows)

    def _inputs(
        self,
        input_ids: NDArray[np.int32],
        row_lengths: NDArray[np.int32],
        beginnings: list[Beginning | None],
    ) -> tuple[dict[str, NDArray[np.int32]], list[Part]]:
        inputs = graph_inputs(input_ids, row_lengths, shares_prefixes=self.shares_prefixes)
        inputs, parts = begin_with_kept(inputs, beginnings)
        modulus = self._lone_row_modulus
        if modulus and len(inputs["input_ids"]) % modulus == 1:
            inputs = in_company(inputs, kept_tokens=_count_tokens(parts))
        return inputs, parts


def _count_tokens(parts: list[Part]) -> int:
    return sum(len(places) for _, places in parts)

"""The encoder's own engine, fed perfect batches: what serving is measured against.

All rows are known beforehand, tokenized, sorted by length and cut into batches of the preferred
size: nothing queues, nothing is sent, nothing is tokenized while the clock runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lasttoken_export.model_sources import ENCODER
from lasttoken_export.server_modules import server_module
from lasttoken_perf.peers.process import Embedder, serve_peer


def load(settings: dict[str, Any]) -> Embedder:
    """Load the graph and cut ``settings["token_ids"]`` into batches.

    ``query_ids`` are the tokens of the queries.
    """
    module = server_module(ENCODER, "onnxruntime_engine")
    engine = module.OnnxRuntimeEngine(
        Path(settings["graph"]),
        runtime="onnxruntime-cpu",
        intra_op_threads=settings["intra_op_threads"],
    )
    rows = [np.array(ids, np.int32) for ids in settings["token_ids"]]
    queries = [np.array(ids, np.int32) for ids in settings.get("query_ids", [])]
    batches = sorted_batches([len(row) for row in rows], settings["batch_tokens"])
    packed = [
        (batch, np.concatenate([rows[i] for i in batch]), np.array([len(rows[i]) for i in batch],
                                                                   np.int32))
        for batch in batches
    ]  # fmt: skip

    def corpus() -> NDArray[np.float32]:
        vectors = np.empty((len(rows), engine.dimensions), np.float32)
        for batch, input_ids, row_lengths in packed:
            vectors[batch] = engine.encode(input_ids, row_lengths)
        return vectors

    def single(index: int) -> NDArray[np.float32]:
        row = queries[index]
        vector: NDArray[np.float32] = engine.encode(row, np.array([len(row)], np.int32))[0]
        return vector

    corpus()  # warm
    return Embedder(version="", corpus=corpus, single=single)


def sorted_batches(lengths: list[int], batch_tokens: int) -> list[list[int]]:
    """Cut rows in order of length into batches of at most ``batch_tokens``; a longer row is alone.

    Returns:
        Indices of each batch's rows.
    """
    batches: list[list[int]] = []
    tokens = 0
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if not batches or tokens + lengths[index] > batch_tokens:
            batches.append([])
            tokens = 0
        batches[-1].append(index)
        tokens += lengths[index]
    return batches


if __name__ == "__main__":
    serve_peer(load)

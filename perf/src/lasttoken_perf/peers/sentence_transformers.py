"""sentence-transformers with its defaults: torch, fp32, batches of 32, padded."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lasttoken_perf.peers.process import Embedder, serve_peer


def load(settings: dict[str, Any]) -> Embedder:
    """Load the Hugging Face folder ``settings["folder"]``; its modules.json says how it pools."""
    import sentence_transformers

    model = sentence_transformers.SentenceTransformer(settings["folder"], device="cpu")
    model.max_seq_length = settings["max_length"]
    texts, queries = settings["texts"], settings["queries"]

    def corpus() -> NDArray[np.float32]:
        vectors: NDArray[np.float32] = model.encode(texts, batch_size=32)
        return vectors

    def single(index: int) -> NDArray[np.float32]:
        vector: NDArray[np.float32] = model.encode(queries[index])
        return vector

    model.encode(texts[:32], batch_size=32)  # warm
    return Embedder(version=sentence_transformers.__version__, corpus=corpus, single=single)


if __name__ == "__main__":
    serve_peer(load)

"""sentence-transformers with its defaults: torch, fp32, batches of 32, padded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lasttoken_perf.peers.process import serve_peer


def load(settings: dict[str, Any]) -> Callable[[], NDArray[np.float32]]:
    """Load the Hugging Face folder ``settings["folder"]`` with last-token pooling."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import (  # the field's current layout
        Normalize,
        Pooling,
        Transformer,
    )

    transformer = Transformer(settings["folder"], max_seq_length=settings["max_length"])
    pooling = Pooling(transformer.get_embedding_dimension(), pooling_mode="lasttoken")
    model = SentenceTransformer(modules=[transformer, pooling, Normalize()], device="cpu")
    texts = settings["texts"]

    def embed() -> NDArray[np.float32]:
        vectors: NDArray[np.float32] = model.encode(texts, batch_size=32)
        return vectors

    model.encode(texts[:32], batch_size=32)  # warm
    return embed


if __name__ == "__main__":
    serve_peer(load)

"""Whether a text's vector depends on the texts that it is batched with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lasttoken_export.quality.layered_graph import LayeredGraph
from lasttoken_export.quality.token_rows import (
    BATCH_TOKENS,
    Encoder,
    cut_into_batches,
    encode_batches,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchInvariance:
    """What was found.

    Attributes:
        bitwise_batch_invariant: Whether every vector was the same to the last bit in all packings.
        rows: Rows computed alone and in company.
        packings: Ways in which they were put together.
        largest_batch_difference: Largest difference of an element; None where one was not finite.
    """

    bitwise_batch_invariant: bool
    rows: int
    packings: int
    largest_batch_difference: float | None


def check_batch_invariance(
    encoder: Encoder | LayeredGraph,
    rows: Sequence[NDArray[np.int32]],
    *,
    sample: int,
    tokens: int = BATCH_TOKENS,
) -> BatchInvariance:
    """Compute some rows alone, then in batches of other make-up.

    Args:
        encoder: Runs the graph.
        rows: One ``[length] int32`` a text.
        sample: How many of them, spread evenly over the lengths.
        tokens: Most tokens of a batch.
    """
    by_length = sorted(range(len(rows)), key=lambda index: len(rows[index]))
    places = np.linspace(0, len(rows) - 1, min(sample, len(rows))).astype(int)
    chosen = [rows[by_length[place]] for place in places]
    lengths = [len(row) for row in chosen]
    random = np.random.default_rng(0)
    orders = [np.arange(len(chosen)), *(random.permutation(len(chosen)) for _ in range(2))]
    packings = [cut_into_batches(order.tolist(), lengths, tokens=tokens) for order in orders]
    batches = [[index] for index in range(len(chosen))] + [b for p in packings for b in p]
    found = iter(encode_batches(encoder, [[chosen[index] for index in b] for b in batches]))
    alone = np.concatenate([next(found) for _ in chosen])
    same, largest = True, 0.0
    for packing in packings:
        packed = np.empty_like(alone)
        for batch in packing:
            packed[batch] = next(found)
        same &= packed.tobytes() == alone.tobytes()
        largest = float(np.maximum(largest, np.abs(packed - alone).max()))  # NaN stays
    return BatchInvariance(
        bitwise_batch_invariant=same,
        rows=len(chosen),
        packings=len(packings),
        largest_batch_difference=largest if np.isfinite(largest) else None,
    )

"""Runs a graph on a retrieval set and takes its figures against given vectors of the reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lasttoken_export.quality.batch_invariance import BatchInvariance, check_batch_invariance
from lasttoken_export.quality.layered_graph import LayeredGraph
from lasttoken_export.quality.quality_report import QualityFigures, quality_figures
from lasttoken_export.quality.token_rows import BATCH_TOKENS, Encoder, embed_rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What was found.

    Attributes:
        figures: Against the reference.
        invariance: Whether batches change vectors; None where it was not asked.
        layer_by_layer: Whether the graph was run a layer at a time.
    """

    figures: QualityFigures
    invariance: BatchInvariance | None
    layer_by_layer: bool


def measure_graph(
    encoder: Encoder | LayeredGraph,
    rows: Sequence[NDArray[np.int32]],
    reference: NDArray[np.float32],
    *,
    queries: int,
    invariance_rows: int,
    max_batch_tokens: int = BATCH_TOKENS,
    on_rows: Callable[[int], None] | None = None,
) -> Measurement:
    """Embed rows of queries and documents and compare.

    Args:
        encoder: Runs the graph.
        rows: One ``[length] int32`` a text, queries first.
        reference: ``[texts, dim]`` of the fp32 graph.
        queries: How many of the texts are queries.
        invariance_rows: Rows that are computed alone and in company; 0 for none.
        max_batch_tokens: Most tokens that the graph takes in one run.
        on_rows: Told how many more rows are done.
    """
    tokens = min(BATCH_TOKENS, max_batch_tokens)
    candidate = embed_rows(encoder, rows, tokens=tokens, on_rows=on_rows)
    return Measurement(
        figures=quality_figures(candidate, reference, queries=queries),
        invariance=check_batch_invariance(encoder, rows, sample=invariance_rows, tokens=tokens)
        if invariance_rows
        else None,
        layer_by_layer=isinstance(encoder, LayeredGraph),
    )

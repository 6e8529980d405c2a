"""The figures of an artefact, computed from its vectors and those of the fp32 reference."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lasttoken_export.quality.metrics import cosines, finite_rows, ndcg, top_overlap

TOP = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityFigures:
    """How far an artefact's vectors are from the reference's, and what that does to retrieval.

    Attributes:
        mean_cosine: Over all texts, each with its vector of the reference.
        p1_cosine: First percentile of these cosines.
        minimum_cosine: The lowest.
        top10_overlap: Mean share of a query's ten best documents that both find.
        ndcg_at_10: Of the artefact.
        ndcg_at_10_reference: Of the reference.
        ndcg_change: Relative change, 0.01 is 1 % better.
        ndcg_change_error: Standard error of it, over the queries.
        not_finite: Vectors that hold NaN or infinity; they count as zeros above.
    """

    mean_cosine: float
    p1_cosine: float
    minimum_cosine: float
    top10_overlap: float
    ndcg_at_10: float
    ndcg_at_10_reference: float
    ndcg_change: float
    ndcg_change_error: float
    not_finite: int


def quality_figures(
    candidate: NDArray[np.float32], reference: NDArray[np.float32], *, queries: int
) -> QualityFigures:
    """Compare vectors of queries and documents, in this order; document i answers query i.

    Args:
        candidate: ``[queries + documents, dim]`` of the artefact.
        reference: The same of the reference.
        queries: How many of them are queries.
    """
    finite = finite_rows(candidate)
    candidate = np.where(finite[:, None], candidate, np.float32(0))
    all_cosines = cosines(candidate, reference)
    scores, reference_scores = (
        vectors[:queries].astype(np.float64) @ vectors[queries:].astype(np.float64).T
        for vectors in (candidate, reference)
    )
    gains = np.eye(queries, len(candidate) - queries)
    ours, theirs = ndcg(scores, gains, k=TOP), ndcg(reference_scores, gains, k=TOP)
    base = max(float(theirs.mean()), 1e-12)
    return QualityFigures(
        mean_cosine=float(all_cosines.mean()),
        p1_cosine=float(np.percentile(all_cosines, 1)),
        minimum_cosine=float(all_cosines.min()),
        top10_overlap=top_overlap(scores, reference_scores, k=TOP),
        ndcg_at_10=float(ours.mean()),
        ndcg_at_10_reference=float(theirs.mean()),
        ndcg_change=float((ours - theirs).mean() / base),
        ndcg_change_error=float((ours - theirs).std() / np.sqrt(queries) / base),
        not_finite=int((~finite).sum()),
    )

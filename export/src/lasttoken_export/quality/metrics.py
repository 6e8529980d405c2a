"""The arithmetic of the quality figures. Pure: arrays in, numbers out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def finite_rows(vectors: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return which vectors ``[n, dim]`` hold neither NaN nor infinity: ``[n]``."""
    return np.asarray(np.isfinite(vectors).all(axis=1))


def cosines(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the cosine of each pair of rows of two ``[n, dim]`` arrays: ``[n]``.

    A row of zeros has cosine 0 to everything.
    """
    one, other = first.astype(np.float64), second.astype(np.float64)
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    products: NDArray[np.float64] = (one * other).sum(axis=1) / np.maximum(norms, 1e-300)
    return np.clip(products, -1.0, 1.0)


def top_overlap(
    scores: NDArray[np.floating], reference: NDArray[np.floating], *, k: int = 10
) -> float:
    """Return the mean share of a query's k best documents that two rankings have in common.

    Args:
        scores: ``[queries, documents]``.
        reference: The same by another model.
        k: Or all documents, where there are fewer.
    """
    k = min(k, scores.shape[1])
    ours, theirs = best(scores, k), best(reference, k)
    shared = [len(set(a) & set(b)) / k for a, b in zip(ours.tolist(), theirs.tolist(), strict=True)]
    return float(np.mean(shared))


def best(scores: NDArray[np.floating], k: int) -> NDArray[np.int64]:
    """Return the k best documents of each query, of equals the first: ``[queries, k]``."""
    order: NDArray[np.int64] = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return order


def ndcg(
    scores: NDArray[np.floating], gains: NDArray[np.floating], *, k: int = 10
) -> NDArray[np.float64]:
    """Return the normalised discounted cumulative gain at k of each query: ``[queries]``.

    Args:
        scores: ``[queries, documents]``.
        gains: The same shape: how relevant each document is, 0 for not at all.
        k: Documents that count.

    Source: Järvelin and Kekäläinen, https://doi.org/10.1145/582415.582418; gains linear and the
    discount log2(1 + rank), as trec_eval and MTEB compute it. A query without a relevant document
    has 0.
    """
    k = min(k, scores.shape[1])
    discounts = 1 / np.log2(np.arange(2, k + 2))
    found = np.take_along_axis(gains.astype(np.float64), best(scores, k), axis=1) @ discounts
    ideal = -np.sort(-gains.astype(np.float64), axis=1)[:, :k] @ discounts
    result: NDArray[np.float64] = np.divide(found, ideal, out=np.zeros_like(found), where=ideal > 0)
    return result

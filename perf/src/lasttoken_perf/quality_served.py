"""Retrieval and similarity figures of served vectors, fp32 against every other precision."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from lasttoken import EmbeddingClient
from lasttoken_export.quality.metrics import cosines, ndcg, top_overlap
from lasttoken_export.quality.token_rows import prompts_of
from lasttoken_perf.bench import check_vectors
from lasttoken_perf.mteb_task import published_lines
from lasttoken_perf.quality_task import QualityTask
from lasttoken_perf.results import Row
from lasttoken_perf.served import CALL_TIMEOUT_S

SUBJECT = "lasttoken server"
_PAIRS_OF_SIMILARITY = 20_000
_QUERIES_AT_A_TIME = 256
"""So that a large corpus's scores need not lie in memory as a whole."""
TEXTS_A_CALL = 64
"""So that a call's time is that of a few batches, however many texts and however slow the model."""


def embed_task(
    url: str, model: str, task: QualityTask, *, prompts: Collection[str], dimensions: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Embed a task's queries and documents by a server, each in its prompt.

    Args:
        url: The server's gRPC address.
        model: Name of the ensemble.
        task: The texts. A prompt of the task's own name is taken for its queries.
        prompts: Names of the model's prompts.
        dimensions: Elements that a vector must have.

    Raises:
        WrongAnswer: A vector is no unit vector of that size.
    """
    query_prompt, document_prompt = prompts_of_task(task, prompts)
    with EmbeddingClient(url, model, on_truncation="ignore") as client:

        def embed(texts: Sequence[str], prompt: str | None) -> NDArray[np.float32]:
            parts = []
            for begin in range(0, len(texts), TEXTS_A_CALL):
                part = list(texts[begin : begin + TEXTS_A_CALL])
                vectors = client.embed(
                    part, prompt_name=prompt, timeout_s=CALL_TIMEOUT_S, priority="bulk"
                )
                check_vectors(vectors, len(part), dimensions)
                parts.append(vectors)
            return np.concatenate(parts)

        return embed(task.queries, query_prompt), embed(task.documents, document_prompt)


def prompts_of_task(task: QualityTask, prompts: Collection[str]) -> tuple[str | None, str | None]:
    """Return the names of the prompts of a task's queries and documents; None for the default."""
    queries, documents = prompts_of(dict.fromkeys(prompts, ""))
    return (task.name if task.name in prompts else queries), documents


def quality_rows(
    vectors: Mapping[str, tuple[NDArray[np.float32], NDArray[np.float32]]],
    gains: NDArray[np.float32],
    itself: Sequence[tuple[int, int]] = (),
) -> list[Row]:
    """Compare every precision with fp32.

    Args:
        vectors: By precision, fp32 among them: of the queries and of the documents.
        gains: ``[queries, documents]``.
        itself: Query and document, by number, of the same text: not ranked.
    """
    exact = vectors["fp32"]
    base, _ = _ranked(exact, exact, gains, itself)
    reference = max(float(base.mean()), 1e-12)
    random = np.random.default_rng(0)
    pairs = np.divmod(random.integers(0, gains.size, min(_PAIRS_OF_SIMILARITY, gains.size)),
                      gains.shape[1])  # fmt: skip
    rows: list[Row] = []
    for precision, own in vectors.items():
        found, overlap = _ranked(own, exact, gains, itself)
        each = cosines(np.concatenate(own), np.concatenate(exact))
        rows.append(
            {
                "subject": SUBJECT,
                "precision": precision,
                "ndcg_at_10": float(found.mean()),
                "ndcg_change": float((found - base).mean() / reference),
                "ndcg_change_error": float((found - base).std() / np.sqrt(len(base)) / reference),
                "top10_overlap": overlap,
                "mean_cosine": float(each.mean()),
                "p1_cosine": float(np.percentile(each, 1)),
                "minimum_cosine": float(each.min()),
                "similarity_spearman": spearman(_similarity(own, pairs), _similarity(exact, pairs)),
            }
        )
    return rows


def _ranked(
    own: tuple[NDArray[np.float32], NDArray[np.float32]],
    exact: tuple[NDArray[np.float32], NDArray[np.float32]],
    gains: NDArray[np.float32],
    itself: Sequence[tuple[int, int]],
) -> tuple[NDArray[np.float64], float]:
    """Return nDCG@10 of each query and the mean top-10 overlap, some queries at a time."""
    found, shared = [], 0.0
    for begin in range(0, len(gains), _QUERIES_AT_A_TIME):
        part = slice(begin, begin + _QUERIES_AT_A_TIME)
        scores = []
        for queries, documents in (own, exact):
            products = queries[part].astype(np.float64) @ documents.astype(np.float64).T
            for query, document in itself:
                if begin <= query < begin + len(products):
                    products[query - begin, document] = -np.inf
            scores.append(products)
        found.append(ndcg(scores[0], gains[part]))
        shared += top_overlap(*scores) * len(scores[0])
    return np.concatenate(found), shared / len(gains)


def _similarity(
    vectors: tuple[NDArray[np.float32], NDArray[np.float32]],
    pairs: tuple[NDArray[np.int64], NDArray[np.int64]],
) -> NDArray[np.float64]:
    queries, documents = (v[i].astype(np.float64) for v, i in zip(vectors, pairs, strict=True))
    similarity: NDArray[np.float64] = (queries * documents).sum(axis=1)
    return similarity


def spearman(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Return the rank correlation of two ``[n]`` arrays; equals share the mean of their ranks."""
    one, other = (ranks - ranks.mean() for ranks in (_ranks(first), _ranks(second)))
    return float((one * other).sum() / np.sqrt((one**2).sum() * (other**2).sum()))


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks: NDArray[np.float64] = (ends - (counts - 1) / 2)[place]
    return ranks


def figures_table(rows: Sequence[Row]) -> list[str]:
    """Return the lines of a table of the figures, a row a precision."""
    return [
        "| precision | nDCG@10 | change from fp32 | top-10 overlap | cosine mean | minimum | "
        "similarity, rank correlation |",
        "|---|---:|---:|---:|---:|---:|---:|",
        *(
            f"| {row['precision']} | {row['ndcg_at_10']:.4f} | {row['ndcg_change']:+.2%} ± "
            f"{row['ndcg_change_error']:.2%} | {row['top10_overlap']:.3f} | "
            f"{row['mean_cosine']:.5f} | {row['minimum_cosine']:.5f} | "
            f"{row['similarity_spearman']:.5f} |"
            for row in rows
        ),
    ]


def render(
    rows: Sequence[Row],
    published: Sequence[Mapping[str, object]],
    task: QualityTask,
    *,
    line: Callable[[str], None],
) -> None:
    """Write the figures for a reader: measured ones, and published ones marked as such."""
    line(f"Measured on {task.name}: {len(task.queries)} queries, {len(task.documents)} documents "
         f"({task.source}), served by a real Triton")  # fmt: skip
    line("")
    for text in figures_table(rows):
        line(text)
    line("")
    for text in published_lines(published):
        line(text)

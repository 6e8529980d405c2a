"""What retrieval figures of a served model are taken on: a held-out set, or a task of MTEB."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lasttoken_export.quality.retrieval_set import RetrievalSet
from lasttoken_perf.errors import TaskUnavailable


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityTask:
    """Queries, documents, and which answers which.

    Attributes:
        name: Of the set, or MTEB's name of the task.
        source: Where the texts come from.
        queries: Texts.
        documents: Texts.
        gains: ``[queries, documents] float32``; 0 for a document that does not answer.
    """

    name: str
    source: str
    queries: tuple[str, ...]
    documents: tuple[str, ...]
    gains: NDArray[np.float32]


def task_of_set(texts: RetrievalSet) -> QualityTask:
    """Return a retrieval set as a task: document i answers query i."""
    return QualityTask(
        name=texts.name,
        source=texts.source,
        queries=texts.queries,
        documents=texts.documents,
        gains=np.eye(len(texts.queries), dtype=np.float32),
    )


def task_of_folder(name: str, folder: Path, *, split: str = "test") -> QualityTask:
    """Read a retrieval task from ``corpus.jsonl``, ``queries.jsonl`` and ``qrels/<split>.tsv``.

    Title and text of a document are joined by a space, as MTEB does.

    Args:
        name: MTEB's name of the task.
        folder: Where its data is.
        split: Whose judgements are taken; queries without one are left out.

    Raises:
        TaskUnavailable: The data is not there, or not in this layout.

    Source: https://github.com/beir-cellar/beir/wiki/Load-your-custom-dataset
    """
    judgements = folder / "qrels" / f"{split}.tsv"
    for file in (folder / "corpus.jsonl", folder / "queries.jsonl", judgements):
        if not file.is_file():
            raise TaskUnavailable(
                f"the data of the task {name!r} is not at hand: {file} is missing. This suite "
                "downloads no task: put its corpus.jsonl, queries.jsonl and qrels/test.tsv (BEIR's "
                f"layout) into {folder}, or name their folder with --data"
            )
    documents = {row["_id"]: f"{row.get('title') or ''} {row['text']}".strip()
                 for row in _rows(folder / "corpus.jsonl")}  # fmt: skip
    texts = {row["_id"]: row["text"] for row in _rows(folder / "queries.jsonl")}
    with judgements.open(newline="", encoding="utf-8") as table:
        judged = [(row["query-id"], row["corpus-id"], float(row["score"]))
                  for row in csv.DictReader(table, delimiter="\t")]  # fmt: skip
    queries = list(dict.fromkeys(query for query, _, score in judged if score > 0))
    missing = [key for query, document, _ in judged for key, known in
               ((query, texts), (document, documents)) if key not in known]  # fmt: skip
    if missing or not queries:
        raise TaskUnavailable(
            f"{judgements} judges {missing[0]!r}, which is in neither file; the data is not whole"
            if missing
            else f"{judgements} judges no document relevant"
        )
    place = {key: index for index, key in enumerate(documents)}
    number = {key: index for index, key in enumerate(queries)}
    gains = np.zeros((len(queries), len(documents)), np.float32)
    for query, document, score in judged:
        if query in number:
            gains[number[query], place[document]] = score
    return QualityTask(
        name=name,
        source=f"{name}, {split} split, from local files",
        queries=tuple(texts[key] for key in queries),
        documents=tuple(documents.values()),
        gains=gains,
    )


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if line.strip():
            try:
                row: dict[str, Any] = json.loads(line)
                row["_id"], row["text"]
            except (ValueError, KeyError, TypeError):
                raise TaskUnavailable(
                    f"{path}:{number} is no JSON object with _id and text"
                ) from None
            yield row

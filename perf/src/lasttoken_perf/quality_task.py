"""What retrieval figures of a served model are taken on: a held-out set, or a task of MTEB."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lasttoken_export.available_memory import available_memory_bytes
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
        itself: Query and document, by number, that are the same text, as in ArguAna; the document
            is left out of that query's ranking.

    Source: https://github.com/beir-cellar/beir, ``ignore_identical_ids``, which MTEB has too.
    """

    name: str
    source: str
    queries: tuple[str, ...]
    documents: tuple[str, ...]
    gains: NDArray[np.float32]
    itself: tuple[tuple[int, int], ...] = ()

    @property
    def sha256(self) -> str:
        """Digest of texts and judgements: figures compare only where it is the same."""
        digest = hashlib.sha256()
        for texts in (self.queries, self.documents):
            digest.update(json.dumps(texts, ensure_ascii=False).encode())
        for query, document in zip(*np.nonzero(self.gains), strict=True):
            digest.update(f"{query} {document} {self.gains[query, document]:g}\n".encode())
        return digest.hexdigest()


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
    corpus = {row["_id"]: row for row in _rows(folder / "corpus.jsonl")}
    documents = {key: f"{row.get('title') or ''} {row['text']}".strip()
                 for key, row in corpus.items()}  # fmt: skip
    texts = {row["_id"]: row["text"] for row in _rows(folder / "queries.jsonl")}
    judged = _judgements(judgements)
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
    check_memory(name, len(queries), len(documents))
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
        itself=tuple(
            (number[key], place[key])
            for key in queries
            if key in corpus and corpus[key]["text"] == texts[key]
        ),
    )


def check_memory(name: str, queries: int, documents: int) -> None:
    """Refuse a task whose judgements, one number a query and document, do not fit into memory.

    Raises:
        TaskUnavailable: They do not.
    """
    needed, available = 4 * queries * documents, available_memory_bytes()
    if needed > available / 2:
        raise TaskUnavailable(
            f"the task {name!r} has {queries:,} queries and {documents:,} documents, whose table "
            f"of judgements takes {needed / 1e9:.0f} GB, and {available / 1e9:.0f} GB are free; "
            "give a smaller corpus.jsonl, or run it on a larger machine"
        )


def _judgements(path: Path) -> list[tuple[str, str, float]]:
    """Read the query, the document and the score of each line."""
    with path.open(newline="", encoding="utf-8-sig") as table:
        rows = csv.DictReader(table, delimiter="\t", quoting=csv.QUOTE_NONE)
        try:
            return [(row["query-id"], row["corpus-id"], float(row["score"])) for row in rows]
        except (KeyError, ValueError, TypeError) as error:
            raise TaskUnavailable(
                f"{path}:{rows.line_num} cannot be read ({error!r}): the first line must name the "
                "columns query-id, corpus-id and score, separated by tabs, and scores are numbers"
            ) from None


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    # Not str.splitlines, which ends lines at U+2028 and others that JSON holds within a text.
    with path.open(encoding="utf-8-sig", newline="\n") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    row: dict[str, Any] = json.loads(line)
                    whole = isinstance(row["_id"], str) and isinstance(row["text"], str)
                except (ValueError, KeyError, TypeError):
                    whole = False
                if not whole:
                    raise TaskUnavailable(f"{path}:{number} is no JSON object with _id and text")
                yield row

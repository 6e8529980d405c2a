"""Pairs of a query and the one document that answers it: what retrieval figures are taken on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lasttoken_export.errors import InvalidOption
from lasttoken_export.json_file import is_text


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrievalSet:
    """Queries and documents; document i answers query i, and the other documents distract.

    Attributes:
        name: ``debian``, ``python``, or the name of a user's file.
        source: Where the texts come from.
        queries: Short texts.
        documents: As many longer ones.

    Raises:
        InvalidOption: There are not as many documents as queries, or fewer than two.
    """

    name: str
    source: str
    queries: tuple[str, ...]
    documents: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.queries) != len(self.documents) or len(self.queries) < 2:
            raise InvalidOption(
                f"{self.name}: {len(self.queries)} queries and {len(self.documents)} documents; a "
                "retrieval set has one document a query, and at least two of them"
            )

    @property
    def sha256(self) -> str:
        """Digest of all texts in order: figures compare only where it is the same."""
        digest = hashlib.sha256()
        for pair in zip(self.queries, self.documents, strict=True):
            digest.update(json.dumps(pair, ensure_ascii=False).encode())
        return digest.hexdigest()

    def first(self, pairs: int) -> RetrievalSet:
        """Return the first so many pairs; all of them where there are no more."""
        return RetrievalSet(
            name=self.name,
            source=self.source,
            queries=self.queries[:pairs],
            documents=self.documents[:pairs],
        )


def pairs_of_file(path: Path) -> RetrievalSet:
    """Read a user's own set: JSON lines with ``query`` and ``document``.

    Raises:
        InvalidOption: The file is not there, or a line is not such a pair.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # a text may hold other line ends
    except OSError as error:
        raise InvalidOption(f"{path}: {error.strerror}; give a file of JSON lines") from None
    except UnicodeDecodeError as error:
        raise InvalidOption(f"{path} is not UTF-8 (byte {error.start}); encode it so") from None
    queries, documents = [], []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            pair = json.loads(line)
            query, document = pair["query"], pair["document"]
        except (ValueError, KeyError, TypeError, RecursionError):
            query = document = None
        if not is_text(query) or not is_text(document):
            raise InvalidOption(
                f'{path}:{number} is {line[:60]!r}; write {{"query": "...", "document": "..."}}'
            )
        queries.append(query)
        documents.append(document)
    return RetrievalSet(
        name=path.name,
        source=str(path.name),
        queries=tuple(queries),
        documents=tuple(documents),
    )


def distinct_pairs(
    candidates: Sequence[tuple[str, str, Sequence[str]]], *, source_name: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Drop near-duplicates: of families that share a query or a paragraph, the first stays.

    Without this a document's twin could rank first, which is no error of the model's.

    Args:
        candidates: Stable key, query and paragraphs of the document, in any order.
        source_name: Mixed into the order, which is that of the keys' digests: the same on every
            machine, unrelated to the alphabet, and hardly changed by a pair that comes or goes.

    Returns:
        Queries, and documents with their paragraphs joined by line breaks.
    """

    def place(candidate: tuple[str, str, Sequence[str]]) -> str:
        return hashlib.sha256(f"{source_name}/{candidate[0]}".encode()).hexdigest()

    seen: set[str] = set()
    queries, documents = [], []
    for _, query, paragraphs in sorted(candidates, key=place):
        # Short paragraphs ("This package contains the documentation.") are shared by strangers.
        told = [paragraphs[0], *(text for text in paragraphs[1:] if len(text) > 80)]
        marks = {_plain(query), *map(_plain, told)}
        if marks & seen:
            continue
        seen |= marks
        queries.append(query)
        documents.append("\n".join(paragraphs))
    return tuple(queries), tuple(documents)


def _plain(text: str) -> str:
    """Case, punctuation and what stands in brackets left out."""
    outside = "".join(part.partition(")")[2] if index else part
                      for index, part in enumerate(text.split("(")))  # fmt: skip
    return " ".join("".join(c if c.isalnum() else " " for c in outside.casefold()).split())

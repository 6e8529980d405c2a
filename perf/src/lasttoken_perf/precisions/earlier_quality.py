"""Quality out of an earlier result, for graphs that are the same, byte by byte."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from lasttoken_export.quality.retrieval_set import RetrievalSet
from lasttoken_export.quality.verify_repository import Artefact
from lasttoken_perf.errors import InvalidUsage
from lasttoken_perf.machine import describe_machine
from lasttoken_perf.results import Row, read_result

FIGURES = (
    "mean_cosine", "p1_cosine", "minimum_cosine", "top10_overlap", "ndcg_at_10", "ndcg_change",
    "ndcg_change_error", "bitwise_batch_invariant",
)  # fmt: skip
_RUNTIME = "onnxruntime"


class EarlierQuality:
    """What an earlier result knows of the same graphs.

    Args:
        path: Of a result of ``lasttoken-perf precisions``; None for none.
        texts: What the quality is measured on.

    Raises:
        MalformedResult: The file is no result.
        InvalidUsage: It is another command's, or its figures are not those that a run here would
            give: of other texts, another ONNX Runtime or another processor.
    """

    def __init__(self, path: Path | None, texts: RetrievalSet) -> None:
        self._rows: dict[tuple[str, str, str], Row] = {}
        if path is None:
            return
        result = read_result(path)
        if result["kind"] != "precisions":
            raise InvalidUsage(f"{path} is of lasttoken-perf {result['kind']}, not of precisions")
        here, there = describe_machine(), result["machine"]
        for what, ours, theirs in (
            ("retrieval set", texts.sha256, result["workload"].get("retrieval_set_sha256")),
            ("number of pairs", len(texts.queries), result["settings"].get("pairs")),
            ("ONNX Runtime", here["packages"].get(_RUNTIME), there["packages"].get(_RUNTIME)),
            ("processor", here["processor"], there["processor"]),
        ):
            if ours != theirs:
                raise InvalidUsage(
                    f"--quality-of {path}: its {what} is {theirs}, here it is {ours}; leave the "
                    "option out, and the quality is measured"
                )
        for row in result["rows"]:
            if "graph_sha256" in row and set(FIGURES) <= row.keys():
                key = row["model"], row["precision"], row["graph_sha256"]
                taken_at = row.get("quality_taken_at", result["taken_at"])
                figures = {name: row[name] for name in FIGURES}
                self._rows[key] = {**figures, "quality_taken_at": taken_at}

    def of(self, model: str, precision: str, graph_sha256: str) -> dict[str, Any] | None:
        """Return the figures of a graph and when they were taken; None where it has none.

        Args:
            model: Catalogue name.
            precision: Of the graph.
            graph_sha256: Of `graph_digest`.
        """
        return self._rows.get((model, precision, graph_sha256))


def graph_digest(artefact: Artefact) -> str:
    """Return the SHA-256 of a graph with its weights."""
    digest = hashlib.sha256()
    graph = artefact.graph
    for path in sorted(graph.parent.glob(f"{graph.name}*")):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()

"""Quality out of an earlier result, for graphs that are the same, byte by byte."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lasttoken_export.model_files import sha256
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
        theirs_by_what, ours_by_what = _conditions_of(result), _conditions_here(texts)
        for what, ours in ours_by_what.items():
            if (theirs := theirs_by_what[what]) != ours:
                raise InvalidUsage(
                    f"--quality-of {path}: its {what} is {theirs}, here it is {ours}; leave the "
                    "option out, and the quality is measured"
                )
        for row in result["rows"]:
            if {"model", "precision", "graph_sha256", *FIGURES} <= row.keys():
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


def _conditions_here(texts: RetrievalSet) -> dict[str, Any]:
    """What decides the figures beside the graph."""
    machine = describe_machine()
    return {
        "retrieval set": texts.sha256,
        "number of pairs": len(texts.queries),
        "ONNX Runtime": machine["packages"].get(_RUNTIME),
        "processor": machine["processor"],
    }


def _conditions_of(result: Mapping[str, Any]) -> dict[str, Any]:
    """The same of a result; None where it does not say."""
    workload, settings = result.get("workload") or {}, result.get("settings") or {}
    machine = result["machine"]
    return {
        "retrieval set": workload.get("retrieval_set_sha256"),
        "number of pairs": settings.get("pairs"),
        "ONNX Runtime": machine.get("packages", {}).get(_RUNTIME),
        "processor": machine.get("processor"),
    }


def graph_digest(artefact: Artefact) -> str:
    """Return the SHA-256, in hexadecimal, of the SHA-256s of a graph's files in order of name."""
    graph = artefact.graph
    files = sorted(graph.parent.glob(f"{graph.name}*"))
    return hashlib.sha256("".join(map(sha256, files)).encode()).hexdigest()

"""Exports a model in every precision into one repository, and takes each one's figures there."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir

from lasttoken_export.catalogue import CatalogueEntry
from lasttoken_export.checkpoint import Checkpoint
from lasttoken_export.errors import InvalidOption
from lasttoken_export.exporter import ExportOptions, export_model
from lasttoken_export.graph.packed_graph import EmbeddingContract
from lasttoken_export.precisions import safe_precisions
from lasttoken_export.quality.quality_options import QualityOptions
from lasttoken_export.quality.retrieval_set import RetrievalSet
from lasttoken_export.quality.verify_repository import (
    Artefact,
    open_artefact,
    verify_artefact,
    write_quality,
)

TARGET = "onnxruntime"
_EMBEDDING_TABLES = ("embed_tokens", "word_embeddings")


@dataclass(frozen=True, slots=True, kw_only=True)
class PrecisionExport:
    """One precision of a model.

    Attributes:
        precision: Its name.
        artefact: Where it lies; None where it cannot be written.
        reason: Why it cannot be written; empty where it is.
    """

    precision: str
    artefact: Artefact | None
    reason: str = ""


def export_precisions(
    checkpoint: Checkpoint,
    entry: CatalogueEntry,
    repository: Path,
    *,
    only: Collection[str] | None = None,
    say: Callable[[str], None],
) -> list[PrecisionExport]:
    """Export every precision that ONNX Runtime's CPU provider runs, unless it lies there already.

    The gate of the export is left out: a precision that misses it belongs in the table too.

    Args:
        checkpoint: The weights.
        entry: The contract that they are served by.
        repository: The Triton model repository, of `exports_folder`; each precision is a model of
            its own there.
        only: Of these precisions; None for all.
        say: Told what is being done.
    """
    found = []
    for precision in safe_precisions(TARGET, entry.precisions):
        if only is not None and precision not in only:
            continue
        name = f"{entry.triton_name}_{precision.replace('-', '_')}"
        if not (repository / name / "1" / "card.json").is_file():
            say(f"exporting {entry.name} in {precision}")
            options = ExportOptions(
                output=repository,
                precision=precision,
                runtime=TARGET,
                triton_name=name,
                quality=QualityOptions(pairs=0),
            )
            try:
                export_model(checkpoint, entry, options)
            except InvalidOption as error:
                found.append(PrecisionExport(precision=precision, artefact=None, reason=str(error)))
                continue
        found.append(
            PrecisionExport(precision=precision, artefact=open_artefact(repository / name))
        )
    return found


def with_quality(
    artefact: Artefact,
    texts: RetrievalSet,
    reference: tuple[Checkpoint, EmbeddingContract],
    *,
    cache_folder: Path | None,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Return an artefact's figures on a set; those of its card, if they are of that set."""
    known: dict[str, Any] = artefact.card.get("quality") or {}
    if known.get("set", {}).get("sha256") == texts.sha256:
        return known
    say(f"measuring the quality of {artefact.name}")
    quality = verify_artefact(artefact, texts, reference, accepted={}, cache_folder=cache_folder)
    write_quality(artefact, quality)
    return quality


def file_sizes(artefact: Artefact) -> dict[str, int]:
    """Return the bytes of the graph with its weights, and those of the token embedding in it."""
    graph = artefact.graph
    size = sum(path.stat().st_size for path in graph.parent.glob(f"{graph.name}*"))
    tables = 0
    for name, value in ir.load(graph).graph.initializers.items():
        if any(part in name for part in _EMBEDDING_TABLES) and value.const_value is not None:
            tables += value.const_value.nbytes
    return {"file_bytes": size, "embedding_bytes": tables}

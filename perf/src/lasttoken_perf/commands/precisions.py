"""``lasttoken-perf precisions``."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lasttoken_export.catalogue import CatalogueEntry
from lasttoken_export.catalogue import entry as catalogue_entry
from lasttoken_export.checkpoint import open_checkpoint
from lasttoken_export.graph.packed_graph import EmbeddingContract
from lasttoken_export.quality.retrieval_set import RetrievalSet
from lasttoken_export.quality.sets import open_set
from lasttoken_export.quality.verify_repository import Artefact
from lasttoken_perf.command import Command, cache_folder, say, whole_number
from lasttoken_perf.errors import NothingMeasured
from lasttoken_perf.kept_rows import after_rows, rows_kept
from lasttoken_perf.output_file import check_folder, check_output, write_output
from lasttoken_perf.precisions.artefacts import (
    TARGET,
    PrecisionExport,
    export_precisions,
    file_sizes,
    with_quality,
)
from lasttoken_perf.precisions.earlier_quality import FIGURES, EarlierQuality, graph_digest
from lasttoken_perf.precisions.exports_folder import exports_folder
from lasttoken_perf.precisions.speed import bare_rows, served_rows
from lasttoken_perf.precisions.table import QUALITY, render
from lasttoken_perf.results import Row, make_result

MODELS = ("smollm2-135m", "all-minilm-l6-v2")
"""Measured unless the user names others."""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    # fmt: off
    add("--model", action="append", metavar="NAME",
        help=f"catalogue name; repeatable ({' and '.join(MODELS)})")
    add("--folder", type=Path, default=Path("build/precisions"), metavar="DIR",
        help="keeps the exports and their figures for the next run (%(default)s)")
    add("--pairs", type=whole_number(2), default=2000, help="pairs for the quality (%(default)s)")
    add("--quality-of", type=Path, metavar="FILE",
        help="earlier result of this command: quality is measured only of graphs that it has none "
        "of, byte by byte the same, on the same pairs, processor and ONNX Runtime")
    add("--texts", type=whole_number(), default=80, help="texts sent when served (%(default)s)")
    add("--clients", type=whole_number(), default=64, help="requests at a time (%(default)s)")
    add("--repeats", type=whole_number(), default=3, help="timed runs of each (%(default)s)")
    add("--no-speed", action="store_true", help="export and measure the quality only")
    add("--table", type=Path, metavar="FILE", help="write the table as Markdown")
    # fmt: on


def _run(options: argparse.Namespace) -> dict[str, Any]:
    if options.table is not None:
        check_output("--table", options.table)
    check_folder("--folder", options.folder)
    cache = cache_folder()
    names = list(dict.fromkeys(options.model or MODELS))
    entries = [catalogue_entry(name) for name in names]
    texts = open_set("debian", pairs=options.pairs, cache_folder=cache)
    earlier = EarlierQuality(options.quality_of, texts)
    rows: list[Row] = []

    def result(interrupted: str | None = None) -> dict[str, Any]:
        return make_result(
            kind="precisions",
            what="size, memory, speed and quality of each precision on ONNX Runtime's CPU provider",
            rows=rows,
            model={"names": names, "runtime": TARGET},
            workload={"distribution": "mixture", "texts": options.texts, "seed": 7,
                      "retrieval_set": texts.source, "retrieval_set_sha256": texts.sha256},
            settings={"pairs": len(texts.queries), "clients": options.clients,
                      "repeats": options.repeats},
            checks={"vectors": "one a text, of the model's size, norm within 1e-3 of 1; served "
                    "ones nearest to fp32's of the same text"},
            interrupted=interrupted,
        )  # fmt: skip

    with rows_kept(options.output, after_rows(rows, result)):
        for entry in entries:
            for row in _rows_of_model(entry, texts, earlier, options, cache):
                rows.append({"model": entry.name, **row})  # noqa: PERF401 - kept one by one
    made = result()
    table = render(made)
    print("\n".join(table))
    if options.table is not None:
        write_output(options.table, "\n".join(table) + "\n")
    return made


def _rows_of_model(
    entry: CatalogueEntry,
    texts: RetrievalSet,
    earlier: EarlierQuality,
    options: argparse.Namespace,
    cache: Path | None,
) -> Iterator[Row]:
    """Yield a model's rows; its exports are kept from being removed meanwhile."""
    with exports_folder(options.folder / entry.name) as repository:
        yield from _rows_of_exports(entry, repository, texts, earlier, options, cache)


def _rows_of_exports(
    entry: CatalogueEntry,
    repository: Path,
    texts: RetrievalSet,
    earlier: EarlierQuality,
    options: argparse.Namespace,
    cache: Path | None,
) -> Iterator[Row]:
    """Yield a model's rows, each as soon as it is measured.

    Raises:
        NothingMeasured: No precision of it can be exported.
    """
    checkpoint = open_checkpoint(entry.source, cache_folder=cache)
    contract = EmbeddingContract.of(entry)
    artefacts: list[Artefact] = []
    reason = ""
    for export in export_precisions(checkpoint, entry, repository, say=say):
        if export.artefact is None:
            yield _left_out(export)
            reason = export.reason
            continue
        artefacts.append(export.artefact)
        digest = graph_digest(export.artefact)
        figures = earlier.of(entry.name, export.precision, digest)
        if figures is None:
            quality = with_quality(
                export.artefact, texts, (checkpoint, contract), cache_folder=cache, say=say
            )
            figures = {figure: quality[figure] for figure in FIGURES}
        yield {
            "subject": QUALITY,
            "precision": export.precision,
            "graph_sha256": digest,
            **file_sizes(export.artefact),
            **figures,
        }
    if not artefacts:
        raise NothingMeasured(f"{entry.name} can be exported in no precision: {reason}")
    if options.no_speed:
        return
    yield from bare_rows(artefacts, repeats=options.repeats, say=say)
    yield from served_rows(
        artefacts,
        entry,
        texts=options.texts,
        clients=options.clients,
        repeats=options.repeats,
        cache_folder=cache,
        say=say,
    )


def _left_out(export: PrecisionExport) -> Row:
    return {"subject": QUALITY, "precision": export.precision, "discarded": export.reason}


COMMAND = Command(add_arguments=_add_arguments, run=_run)

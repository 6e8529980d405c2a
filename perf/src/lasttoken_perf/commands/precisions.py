"""``lasttoken-perf precisions``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from lasttoken_export.catalogue import entry as catalogue_entry
from lasttoken_export.checkpoint import open_checkpoint
from lasttoken_export.graph.packed_graph import EmbeddingContract
from lasttoken_export.quality.sets import open_set
from lasttoken_perf.command import Command, cache_folder, say, whole_number
from lasttoken_perf.output_file import check_output, write_output
from lasttoken_perf.precisions.artefacts import (
    PrecisionExport,
    export_precisions,
    file_sizes,
    with_quality,
)
from lasttoken_perf.precisions.speed import bare_rows, served_rows
from lasttoken_perf.precisions.table import QUALITY, render
from lasttoken_perf.results import Row, make_result

_FIGURES = (
    "mean_cosine", "p1_cosine", "minimum_cosine", "top10_overlap", "ndcg_at_10", "ndcg_change",
    "ndcg_change_error", "bitwise_batch_invariant",
)  # fmt: skip


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    # fmt: off
    add("--model", action="append", metavar="NAME",
        help="catalogue name; repeatable (smollm2-135m and all-minilm-l6-v2)")
    add("--folder", type=Path, default=Path("build/precisions"), metavar="DIR",
        help="keeps the exports and their figures for the next run (%(default)s)")
    add("--pairs", type=whole_number(2), default=2000, help="pairs for the quality (%(default)s)")
    add("--texts", type=whole_number(), default=80, help="texts sent when served (%(default)s)")
    add("--clients", type=whole_number(), default=64, help="requests at a time (%(default)s)")
    add("--repeats", type=whole_number(), default=3, help="timed runs of each (%(default)s)")
    add("--no-speed", action="store_true", help="export and measure the quality only")
    add("--table", type=Path, metavar="FILE", help="write the table as Markdown")
    # fmt: on


def _run(options: argparse.Namespace) -> dict[str, Any]:
    if options.table is not None:
        check_output("--table", options.table)
    cache = cache_folder()
    texts = open_set("debian", pairs=options.pairs, cache_folder=cache)
    rows: list[Row] = []
    names = options.model or ["smollm2-135m", "all-minilm-l6-v2"]
    for name in names:
        entry = catalogue_entry(name)
        checkpoint = open_checkpoint(entry.source, cache_folder=cache)
        contract = EmbeddingContract(
            pooling=entry.pooling, attention=entry.attention, layer_norm=entry.layer_norm
        )
        exports = export_precisions(checkpoint, entry, options.folder / name, say=say)
        model_rows: list[Row] = []
        artefacts = []
        for export in exports:
            if export.artefact is None:
                model_rows.append(_left_out(export))
                continue
            artefacts.append(export.artefact)
            quality = with_quality(
                export.artefact, texts, (checkpoint, contract), cache_folder=cache, say=say
            )
            figures = {figure: quality[figure] for figure in _FIGURES}
            sizes = file_sizes(export.artefact)
            model_rows.append(
                {"subject": QUALITY, "precision": export.precision, **sizes, **figures}
            )
        if not options.no_speed:
            model_rows += bare_rows(artefacts, repeats=options.repeats, say=say)
            model_rows += served_rows(
                artefacts,
                entry,
                texts=options.texts,
                clients=options.clients,
                repeats=options.repeats,
                cache_folder=cache,
                say=say,
            )
        rows += [{"model": name, **row} for row in model_rows]
    result = make_result(
        kind="precisions",
        what="size, memory, speed and quality of each precision on ONNX Runtime's CPU provider",
        rows=rows,
        model={"names": names, "runtime": "onnxruntime-cpu"},
        workload={"distribution": "mixture", "texts": options.texts, "seed": 7,
                  "retrieval_set": texts.source, "retrieval_set_sha256": texts.sha256},
        settings={"pairs": options.pairs, "clients": options.clients,
                  "repeats": options.repeats},
    )  # fmt: skip
    table = render(result)
    print("\n".join(table))
    if options.table is not None:
        write_output(options.table, "\n".join(table) + "\n")
    return result


def _left_out(export: PrecisionExport) -> Row:
    return {"subject": QUALITY, "precision": export.precision, "discarded": export.reason}


COMMAND = Command(add_arguments=_add_arguments, run=_run)

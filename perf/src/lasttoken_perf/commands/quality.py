"""``lasttoken-perf quality``."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lasttoken.local import LocalTriton
from lasttoken_export.catalogue import CatalogueEntry
from lasttoken_export.catalogue import entry as catalogue_entry
from lasttoken_export.checkpoint import default_cache_folder, open_checkpoint
from lasttoken_export.quality.quality_options import SETS
from lasttoken_export.quality.sets import open_set
from lasttoken_export.quality.verify_repository import Artefact
from lasttoken_perf.command import Command, add_model_argument, cache_folder, say, whole_number
from lasttoken_perf.errors import TaskUnavailable
from lasttoken_perf.mteb_task import open_mteb_task, score_rows, score_served, score_table
from lasttoken_perf.precisions.artefacts import TARGET, export_precisions
from lasttoken_perf.quality_served import SUBJECT, embed_task, quality_rows, render
from lasttoken_perf.quality_task import QualityTask, task_of_folder, task_of_set
from lasttoken_perf.results import make_result


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_argument(parser)
    add = parser.add_argument
    # fmt: off
    add("--precision", action="append", metavar="NAME",
        help="compared with fp32; repeatable (all that run here)")
    add("--set", default="debian", dest="retrieval_set", metavar="SET",
        help=f"{', '.join(SETS)} or a file of JSON lines (%(default)s)")
    add("--pairs", type=whole_number(2), default=2000, help="pairs of the set (%(default)s)")
    add("--task", metavar="NAME",
        help="a task of MTEB in place of the set, of any type, from the local datasets cache")
    add("--data", type=Path, metavar="DIR",
        help="a retrieval task's corpus.jsonl, queries.jsonl and qrels/ (CACHE/tasks/NAME)")
    add("--folder", type=Path, default=Path("build/precisions"), metavar="DIR",
        help="keeps the exports for the next run (%(default)s)")
    # fmt: on


def _run(options: argparse.Namespace) -> dict[str, Any]:
    cache = cache_folder()
    task = _task(options, cache)
    entry = catalogue_entry(options.model)
    checkpoint = open_checkpoint(entry.source, cache_folder=cache)
    wanted = {"fp32", *options.precision} if options.precision else None
    exports = export_precisions(
        checkpoint, entry, options.folder / options.model, only=wanted, say=say
    )
    artefacts = {e.precision: e.artefact for e in exports if e.artefact is not None}
    if wanted is not None and (missing := sorted(wanted - artefacts.keys())):
        reasons = {e.precision: e.reason for e in exports}
        raise TaskUnavailable(
            f"{missing[0]} cannot be served on {TARGET}: {reasons.get(missing[0], 'no such one')}"
        )
    with LocalTriton(artefacts["fp32"].repository, cache_folder=cache) as server:
        if isinstance(task, QualityTask):
            return _on_texts(task, entry, artefacts, server.grpc_url)
        return _on_mteb(options.task, task, entry, artefacts, server.grpc_url)


def _on_texts(
    task: QualityTask, entry: CatalogueEntry, artefacts: Mapping[str, Artefact], url: str
) -> dict[str, Any]:
    vectors = {}
    for precision, artefact in artefacts.items():
        say(f"embedding {task.name} in {precision}")
        vectors[precision] = embed_task(
            url,
            artefact.name,
            task,
            prompts=artefact.card["prompts"],
            dimensions=entry.dimensions,
        )
    rows = quality_rows(vectors, task.gains)
    render(rows, entry.quality, task, line=print)
    return make_result(
        kind="quality",
        what="retrieval and similarity figures of a served model, fp32 against each precision",
        rows=rows,
        model={"name": entry.name, "runtime": TARGET, "published": list(entry.quality)},
        workload={"task": task.name, "source": task.source, "queries": len(task.queries),
                  "documents": len(task.documents)},
    )  # fmt: skip


def _on_mteb(
    name: str, task: Any, entry: CatalogueEntry, artefacts: Mapping[str, Artefact], url: str
) -> dict[str, Any]:
    scores = {}
    for precision, artefact in artefacts.items():
        say(f"evaluating {name} in {precision}")
        scores[precision] = score_served(url, artefact.name, task)
    rows = score_rows(name, SUBJECT, scores)
    print("\n".join(score_table(rows, entry.quality)))
    return make_result(
        kind="quality",
        what="MTEB's own score of a served model, fp32 against each precision",
        rows=rows,
        model={"name": entry.name, "runtime": TARGET, "published": list(entry.quality)},
        workload={"task": name, "source": "the local datasets cache",
                  "dataset": dict(task.metadata.dataset), "type": str(task.metadata.type)},
        packages=["mteb", "datasets"],
    )  # fmt: skip


def _task(options: argparse.Namespace, cache: Path | None) -> QualityTask | Any:
    """Return texts with their judgements, or a task that mteb itself evaluates."""
    if options.task is not None:
        kept = (cache or default_cache_folder()) / "tasks" / options.task
        if options.data is not None or kept.is_dir():
            return task_of_folder(options.task, options.data or kept)
        return open_mteb_task(options.task)
    if options.data is not None:
        raise TaskUnavailable("--data is the data of a task; name it with --task")
    return task_of_set(open_set(options.retrieval_set, pairs=options.pairs, cache_folder=cache))


COMMAND = Command(add_arguments=_add_arguments, run=_run)

"""``lasttoken-perf quality``."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lasttoken.local import LocalTriton
from lasttoken_export.catalogue import CatalogueEntry
from lasttoken_export.catalogue import entry as catalogue_entry
from lasttoken_export.checkpoint import Checkpoint, default_cache_folder, open_checkpoint
from lasttoken_export.precisions import safe_precisions
from lasttoken_export.quality.quality_options import SETS
from lasttoken_export.quality.sets import open_set
from lasttoken_export.quality.verify_repository import Artefact
from lasttoken_perf.command import Command, add_model_argument, cache_folder, say, whole_number
from lasttoken_perf.errors import InvalidUsage, TaskUnavailable
from lasttoken_perf.kept_rows import Finished, rows_kept
from lasttoken_perf.mteb_task import open_mteb_task, score_rows, score_served, score_table
from lasttoken_perf.output_file import check_folder
from lasttoken_perf.precisions.artefacts import TARGET, export_precisions
from lasttoken_perf.precisions.exports_folder import exports_folder
from lasttoken_perf.quality_served import (
    SUBJECT,
    embed_task,
    prompts_of_task,
    quality_rows,
    render,
)
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
    check_folder("--folder", options.folder)
    cache = cache_folder()
    entry = catalogue_entry(options.model)
    wanted = _precisions(options.precision, entry)
    task = _task(options, cache)
    checkpoint = open_checkpoint(entry.source, cache_folder=cache)
    with exports_folder(options.folder / options.model) as repository:
        return _on_exports(task, checkpoint, entry, repository, wanted, options)


def _on_exports(
    task: Any,
    checkpoint: Checkpoint,
    entry: CatalogueEntry,
    repository: Path,
    wanted: tuple[str, ...],
    options: argparse.Namespace,
) -> dict[str, Any]:
    exports = export_precisions(checkpoint, entry, repository, only=wanted, say=say)
    artefacts = {e.precision: e.artefact for e in exports if e.artefact is not None}
    asked = wanted if options.precision else ("fp32",)  # what all others are compared with
    if missing := [name for name in asked if name not in artefacts]:
        reasons = {e.precision: e.reason for e in exports}
        raise TaskUnavailable(
            f"{missing[0]} cannot be served on {TARGET}: {reasons.get(missing[0])}"
        )
    with LocalTriton(artefacts["fp32"].repository, cache_folder=cache_folder()) as server:
        if isinstance(task, QualityTask):
            return _on_texts(task, entry, artefacts, server.grpc_url, options)
        return _on_mteb(options.task, task, entry, artefacts, server.grpc_url, options)


def _precisions(asked: list[str] | None, entry: CatalogueEntry) -> tuple[str, ...]:
    """Return the precisions to serve, fp32 first.

    Raises:
        InvalidUsage: One of them cannot be served on any machine of this kind, or is unknown.
    """
    known = safe_precisions(TARGET, entry.precisions)
    if unknown := [name for name in asked or () if name not in known]:
        raise InvalidUsage(
            f"--precision is {unknown[0]!r}, which cannot be served on {TARGET} for "
            f"{entry.name}; choose of {', '.join(known)}"
        )
    return tuple(name for name in known if asked is None or name in ("fp32", *asked))


def _on_texts(
    task: QualityTask,
    entry: CatalogueEntry,
    artefacts: Mapping[str, Artefact],
    url: str,
    options: argparse.Namespace,
) -> dict[str, Any]:
    vectors: dict[str, Any] = {}

    def result(interrupted: str | None = None) -> dict[str, Any]:
        return make_result(
            kind="quality",
            what="retrieval and similarity figures of a served model, fp32 against each precision",
            rows=quality_rows(vectors, task.gains, task.itself),
            model={"name": entry.name, "runtime": TARGET, "published": list(entry.quality)},
            workload={"task": task.name, "source": task.source, "sha256": task.sha256,
                      "queries": len(task.queries), "documents": len(task.documents)},
            settings={"prompts": dict(zip(("queries", "documents"), prompts, strict=True))},
            checks={"vectors": "one a text, of the model's size, norm within 1e-3 of 1"},
            interrupted=interrupted,
        )  # fmt: skip

    prompts = prompts_of_task(task, artefacts["fp32"].card["prompts"])
    with rows_kept(options.output, _finished(vectors, result)):
        for precision, artefact in artefacts.items():
            say(f"embedding {task.name} in {precision}")
            vectors[precision] = embed_task(
                url,
                artefact.name,
                task,
                prompts=artefact.card["prompts"],
                dimensions=entry.dimensions,
            )
    found = result()
    render(found["rows"], entry.quality, task, line=print)
    return found


def _on_mteb(
    name: str,
    task: Any,
    entry: CatalogueEntry,
    artefacts: Mapping[str, Artefact],
    url: str,
    options: argparse.Namespace,
) -> dict[str, Any]:
    scores: dict[str, Any] = {}

    def result(interrupted: str | None = None) -> dict[str, Any]:
        return make_result(
            kind="quality",
            what="MTEB's own score of a served model, fp32 against each precision",
            rows=score_rows(name, SUBJECT, scores),
            model={"name": entry.name, "runtime": TARGET, "published": list(entry.quality)},
            workload={"task": name, "source": "the local datasets cache",
                      "dataset": dict(task.metadata.dataset), "type": str(task.metadata.type)},
            packages=["mteb", "datasets"],
            interrupted=interrupted,
        )  # fmt: skip

    with rows_kept(options.output, _finished(scores, result)):
        for precision, artefact in artefacts.items():
            say(f"evaluating {name} in {precision}")
            scores[precision] = score_served(url, artefact.name, task)
    found = result()
    print("\n".join(score_table(found["rows"], entry.quality)))
    return found


def _finished(done: Mapping[str, Any], result: Callable[[str], dict[str, Any]]) -> Finished:
    """Return what is kept of an unfinished run: the precisions that are done, fp32 the first."""

    def finished(ended_by: str) -> dict[str, Any] | None:
        return result(f"{ended_by} after {', '.join(done)}") if done else None

    return finished


def _task(options: argparse.Namespace, cache: Path | None) -> QualityTask | Any:
    """Return texts with their judgements, or a task that mteb itself evaluates."""
    if options.task is not None:
        kept = (cache or default_cache_folder()) / "tasks" / options.task
        if options.data is not None or kept.is_dir():
            return task_of_folder(options.task, options.data or kept)
        return open_mteb_task(options.task)
    if options.data is not None:
        raise InvalidUsage("--data is the data of a task; name it with --task")
    return task_of_set(open_set(options.retrieval_set, pairs=options.pairs, cache_folder=cache))


COMMAND = Command(add_arguments=_add_arguments, run=_run)

"""A run from its beginning to its end, on this machine or on a Ray cluster."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Protocol

from lasttoken.corpus.empty_run import kept_if_it_has_parts
from lasttoken.corpus.engine import Job, embed_parts
from lasttoken.corpus.manifest import begin_run, make_manifest
from lasttoken.corpus.options import CorpusOptions
from lasttoken.corpus.places import Place, files_in, place_of
from lasttoken.corpus.plan import Part, make_plan, rows_per_part
from lasttoken.corpus.servers import model_identity
from lasttoken.corpus.writer import TEMPORARY, PartCounts, finished_counts

_FOOTERS_AT_A_TIME = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusReport:
    """What a run has done.

    Attributes:
        parts: Parts in the folder now: all of the plan's.
        counts: What happened to their rows, those of earlier runs included.
        resumed_parts: Parts that were there already.
        resumed_rows: Their rows.
        seconds: Time from the first look at the inputs to the last part.
    """

    parts: int
    counts: PartCounts
    resumed_parts: int
    resumed_rows: int
    seconds: float


class Progress(Protocol):
    """Who is told how far a run is."""

    def begin(self, *, rows: int, done: int) -> None:
        """Hear how many rows there are, and how many an earlier run has done."""

    def advance(self, rows: int) -> None:
        """Hear that so many rows more are done."""

    def finish(self, rows: int) -> None:
        """Hear that a part of so many rows is written."""


class _Silent:
    def begin(self, *, rows: int, done: int) -> None:
        """Nothing."""

    def advance(self, rows: int) -> None:
        """Nothing."""

    def finish(self, rows: int) -> None:
        """Nothing."""


class Runner(Protocol):
    """What embeds the parts: this process, or a cluster."""

    def __call__(
        self,
        job: Job,
        parts: list[Part],
        *,
        on_rows: Callable[[int], None],
        on_part: Callable[[Part, PartCounts], None],
    ) -> None:
        """Embed the parts and write them."""


def run_here(
    job: Job,
    parts: list[Part],
    *,
    on_rows: Callable[[int], None],
    on_part: Callable[[Part, PartCounts], None],
) -> None:
    """Embed parts in this process, on an event loop of its own."""
    asyncio.run(embed_parts(job, parts, on_rows=on_rows, on_part=on_part))


def embed_corpus(
    options: CorpusOptions, *, runner: Runner = run_here, progress: Progress | None = None
) -> CorpusReport:
    """Embed a column of Parquet files into Parquet files with vectors.

    Each part appears in the output folder when it is complete. An interrupted run is continued by
    the same call with `resume`: finished parts are kept, all others are made anew. Parts, names
    and the order of rows depend on the inputs and options alone.

    Args:
        options: The run.
        runner: `run_here`, or a `lasttoken.corpus.ray_runner.RayRunner`.
        progress: Told how far the run is.

    Returns:
        What has been done, when every row of the inputs is in exactly one part.

    Raises:
        InvalidInput: The options, the inputs or the output folder do not allow the run.
        LasttokenError: A text was refused, or the servers stayed away for too long.
    """
    started_s = time.monotonic()
    progress = progress or _Silent()
    folder = place_of(options.output)
    identity = asyncio.run(model_identity(options))
    part_rows = rows_per_part(options, options.dimensions or identity.dimensions)
    plan = make_plan(options, part_rows=part_rows)
    manifest = make_manifest(options, plan, identity, part_rows=part_rows)
    with ExitStack() as stack:
        if runner is run_here:  # workers of a cluster may finish a part after we have failed
            stack.enter_context(kept_if_it_has_parts(folder))
        begin_run(folder, manifest, resume=options.resume)
        job = Job(options=options, plan=plan, identity=identity, manifest=manifest)
        done = _finished_parts(folder, job)
        resumed = sum(done.values(), PartCounts())
        remaining = [part for part in plan.parts if part not in done]
        resumed_parts = len(done)
        progress.begin(rows=plan.rows, done=resumed.rows)

        def on_part(part: Part, counts: PartCounts) -> None:
            done[part] = counts
            progress.finish(part.rows)

        if remaining:
            runner(job, remaining, on_rows=progress.advance, on_part=on_part)
    missing = [part.name for part in plan.parts if part not in done]
    assert not missing, f"the runner has returned without {missing}"
    return CorpusReport(
        parts=len(plan.parts),
        counts=sum(done.values(), PartCounts()),
        resumed_parts=resumed_parts,
        resumed_rows=resumed.rows,
        seconds=time.monotonic() - started_s,
    )


def _finished_parts(folder: Place, job: Job) -> dict[Part, PartCounts]:
    """Parts that are there and whole; what an interrupted run has left half done is removed."""
    present = files_in(folder)
    for name in present:
        if name.startswith(TEMPORARY):
            folder.filesystem.delete_file(folder.inside(name))
    candidates = [part for part in job.plan.parts if part.name in present]
    with ThreadPoolExecutor(_FOOTERS_AT_A_TIME) as threads:
        found = threads.map(lambda part: finished_counts(folder, part, job.manifest), candidates)
        return {
            part: counts
            for part, counts in zip(candidates, found, strict=True)
            if counts is not None
        }

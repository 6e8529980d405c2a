"""The same parts on a Ray cluster: Ray Data gives them to workers, each of which streams its own.

A part is a function of the plan, and its file appears by a rename, so a worker that dies costs the
part that it was at: Ray starts another worker and gives it the part again. A part that is finished
already is not made again, whoever made it.
"""

from __future__ import annotations

import asyncio
import pickle
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from lasttoken.corpus.engine import Job, embed_parts
from lasttoken.corpus.places import place_of
from lasttoken.corpus.plan import Part
from lasttoken.corpus.writer import PartCounts, finished_counts
from lasttoken.errors import InvalidInput, LasttokenError

_MOST_PARTS_A_TASK = 8
_TASKS_A_WORKER = 4
_WORKER_CPUS = 0.5
"""A worker waits for servers most of the time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RayRunner:
    """Runs the parts on a Ray cluster.

    Attributes:
        address: Of the cluster, such as `"auto"` or `"host:6379"`; None takes the one that
            this process is connected to, or RAY_ADDRESS, or starts Ray on this machine.
        workers: Worker processes; None takes two for each Triton server.
    """

    address: str | None = None
    workers: int | None = None

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise InvalidInput(f"workers is {self.workers!r}; it must be at least 1")

    def __call__(
        self,
        job: Job,
        parts: list[Part],
        *,
        on_rows: Callable[[int], None],
        on_part: Callable[[Part, PartCounts], None],
    ) -> None:
        """Embed the parts and write them.

        Raises:
            LasttokenError: As `embed_parts`; or Ray could not go on.
        """
        try:
            import ray
            import ray.data
        except ModuleNotFoundError as error:
            raise LasttokenError("this needs Ray: pip install 'lasttoken[ray]'") from error

        if not ray.is_initialized():
            with _sigterm_kept():
                ray.init(address=self.address, log_to_driver=False)
        ray.data.DataContext.get_current().enable_progress_bars = False  # rows are counted here
        workers = self.workers or 2 * len(job.options.urls)
        tasks = list(_tasks(parts, workers))
        rows = [{"parts": np.array([part.number for part in task])} for task in tasks]
        counted = (
            ray.data.from_items(rows, override_num_blocks=len(rows))
            .map_batches(
                PartWorker,
                fn_constructor_kwargs={"job": ray.put(job)},
                batch_size=1,
                compute=ray.data.ActorPoolStrategy(size=min(workers, len(tasks))),
                num_cpus=_WORKER_CPUS,
            )
            .iter_rows()
        )
        try:
            for row in counted:
                for part, counts in _outcome(row["outcome"]).items():
                    on_rows(counts.rows)
                    on_part(part, counts)
        except ray.exceptions.RayError as error:
            raise LasttokenError(f"Ray could not go on: {error}") from error


class PartWorker:
    """One worker process."""

    def __init__(self, job: Any) -> None:
        """Receive the run, as a reference to it."""
        import ray

        self._job: Job = ray.get(job)
        self._folder = place_of(self._job.options.output)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Embed the parts of one task.

        Args:
            batch: `parts`: one row, numbers of the parts.

        Returns:
            `outcome`: the counts of each part, or the error that ended the work, pickled: Ray would
            make an error of its own of one that is raised.
        """
        counts: dict[Part, PartCounts] = {}
        numbers = np.concatenate(list(batch["parts"])).tolist()
        try:
            self._embed([self._job.plan.parts[number] for number in numbers], counts)
        except LasttokenError as error:
            return {"outcome": [pickle.dumps(error)]}
        return {"outcome": [pickle.dumps(counts)]}

    def _embed(self, parts: list[Part], counts: dict[Part, PartCounts]) -> None:
        missing = []
        for part in parts:
            # A worker that died may have finished it; so may one whose report was lost.
            there = finished_counts(self._folder, part, self._job.manifest)
            if there is None:
                missing.append(part)
            else:
                counts[part] = there
        if missing:
            asyncio.run(
                embed_parts(self._job, missing, on_rows=_ignore, on_part=counts.__setitem__)
            )


@contextmanager
def _sigterm_kept() -> Iterator[None]:
    """Put the program's own handler of SIGTERM back, in whose place `ray.init` puts Ray's."""
    before = signal.getsignal(signal.SIGTERM)
    kept = callable(before) and threading.current_thread() is threading.main_thread()
    try:
        yield
    except SystemExit as leave:
        if kept and callable(before) and leave.code == signal.SIGTERM:  # what Ray's handler does
            before(signal.SIGTERM, None)
        raise
    finally:
        if kept:
            signal.signal(signal.SIGTERM, before)


def _outcome(pickled: bytes) -> dict[Part, PartCounts]:
    outcome = pickle.loads(pickled)  # noqa: S301 - from our own worker
    if isinstance(outcome, LasttokenError):
        raise outcome
    counts: dict[Part, PartCounts] = outcome
    return counts


def _tasks(parts: list[Part], workers: int) -> Iterator[list[Part]]:
    """Neighbouring parts of a file go to one worker, which then decodes its row groups once.

    Tasks stay small enough for every worker to get several.
    """
    most = max(1, min(_MOST_PARTS_A_TASK, len(parts) // (workers * _TASKS_A_WORKER)))
    for _, of_source in groupby(parts, key=lambda part: part.source):
        neighbours = list(of_source)
        for start in range(0, len(neighbours), most):
            yield neighbours[start : start + most]


def _ignore(_rows: int) -> None:
    """Rows are counted when their part is written."""

"""Timing of an engine on the suite's workload: corpora in full batches, and single texts."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lasttoken_perf.gpu_suite.reference import agreement, load_reference
from lasttoken_perf.gpu_suite.settings import SuiteSettings
from lasttoken_perf.gpu_suite.step_report import StepReport
from lasttoken_perf.gpu_suite.token_rows import (
    CORPORA,
    QUERIES,
    TokenRows,
    compared_rows,
    make_rows,
    pack,
)
from lasttoken_perf.latency import latency_fields
from lasttoken_perf.machine import device_name
from lasttoken_perf.monitor import ResourceMonitor
from lasttoken_perf.results import Row

Rows = list[NDArray[np.int32]]

_WARM_PASSES = 4
"""Of the single texts: our engine has a CUDA graph of a shape when it comes for the fourth time."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Contestant:
    """Who is measured.

    Attributes:
        subject: Its name in the rows.
        version: Of its library.
        precision: It computes in.
        embed_batch: Embeds rows that were put into one batch: ``[rows, hidden] float32``, complete
            when it returns.
        embed_corpus: Embeds all rows as its library does by itself, where that forms the batches;
            None to have them formed here, in order of length.
        variant: What tells two rows of the same subject apart.
        pid: Process whose memory and processor time count.
    """

    subject: str
    version: str
    precision: str
    embed_batch: Callable[[Rows], NDArray[np.float32]]
    embed_corpus: Callable[[Rows], NDArray[np.float32]] | None = None
    variant: str = ""
    pid: int | None = None


def packed_batches(
    encode: Callable[[NDArray[np.int32], NDArray[np.int32]], NDArray[np.float32]],
) -> Callable[[Rows], NDArray[np.float32]]:
    """Return an engine's ``encode`` as a function of rows."""

    def embed(rows: Rows) -> NDArray[np.float32]:
        lengths = np.array([len(row) for row in rows], np.int32)
        return encode(np.concatenate(rows), lengths)

    return embed


def measure(contestant: Contestant, settings: SuiteSettings) -> StepReport:
    """Compare with the reference first, then time every corpus and the single texts.

    Raises:
        WrongAnswer: The vectors are not the reference's; nothing is timed then.
    """
    corpora = [make_rows(settings, name) for name in CORPORA]
    agreements = _compare(contestant, settings, corpora)
    base: Row = {
        "subject": contestant.subject,
        "version": contestant.version,
        "device": device_of(settings),
        "precision": contestant.precision,
        **({"variant": contestant.variant} if contestant.variant else {}),
    }
    rows: list[Row] = []
    for corpus in corpora:
        compared = agreements.get(corpus.distribution, {})
        rows += [
            {**base, "distribution": corpus.distribution, "load": "corpus", **compared, **row}
            for row in _time_corpus(contestant, settings, corpus)
        ]
    queries = make_rows(settings, QUERIES)
    rows += [
        {**base, "distribution": QUERIES, "load": "single", "concurrency": 1, **row}
        for row in _time_single(contestant, settings, queries)
    ]
    checks = {"compared_with_transformers": agreements or "no: the parity step has not run here"}
    return StepReport(rows=rows, checks=checks)


def device_of(settings: SuiteSettings) -> str:
    """Return the name of what computes: the GPU as its driver calls it, or the processor."""
    name = device_name()
    return name if settings.device == "cuda" else f"cpu: {name}"


def _compare(
    contestant: Contestant, settings: SuiteSettings, corpora: list[TokenRows]
) -> dict[str, Row]:
    reference = load_reference(settings)
    found: dict[str, Row] = {}
    for corpus in corpora:
        if corpus.distribution in reference:
            vectors = _embed(contestant, settings, list(compared_rows(corpus).rows))
            found[corpus.distribution] = agreement(
                vectors,
                reference[corpus.distribution],
                precision=contestant.precision,
                who=contestant.subject,
            ).fields()
    return found


def _embed(contestant: Contestant, settings: SuiteSettings, rows: Rows) -> NDArray[np.float32]:
    if contestant.embed_corpus is not None:
        return contestant.embed_corpus(rows)
    batches = pack(rows, settings.batch_tokens)
    vectors: NDArray[np.float32] | None = None
    for batch in batches:
        found = contestant.embed_batch([rows[index] for index in batch.indices])
        if vectors is None:
            vectors = np.empty((len(rows), found.shape[1]), np.float32)
        vectors[list(batch.indices)] = found
    assert vectors is not None
    return vectors


def _time_corpus(
    contestant: Contestant, settings: SuiteSettings, corpus: TokenRows
) -> list[dict[str, Any]]:
    rows = list(corpus.rows)
    _embed(contestant, settings, rows)  # warm: every shape is seen once
    seconds: list[float] = []
    with ResourceMonitor(contestant.pid or os.getpid()) as monitor:
        for _ in range(settings.repeats):
            started_s = time.perf_counter()
            _embed(contestant, settings, rows)
            seconds.append(time.perf_counter() - started_s)
    batches = {}
    if contestant.embed_corpus is None:
        count = len(pack(rows, settings.batch_tokens))
        batches = {"batches": count, "tokens_per_batch": corpus.tokens / count,
                   "rows_per_batch": len(rows) / count}  # fmt: skip
    return [
        {
            "repeat": repeat,
            "seconds": taken,
            "texts_per_s": len(rows) / taken,
            "tokens_per_s": corpus.tokens / taken,
            **batches,
            **monitor.fields(),
        }
        for repeat, taken in enumerate(seconds, start=1)
    ]


def _time_single(
    contestant: Contestant, settings: SuiteSettings, queries: TokenRows
) -> list[dict[str, Any]]:
    for _ in range(_WARM_PASSES):
        for row in queries.rows:
            contestant.embed_batch([row])
    found = []
    for repeat in range(1, settings.repeats + 1):
        latency_ms = []
        with ResourceMonitor(contestant.pid or os.getpid()) as monitor:
            for row in queries.rows:
                started_s = time.perf_counter()
                contestant.embed_batch([row])
                latency_ms.append(1000 * (time.perf_counter() - started_s))
        found.append({"repeat": repeat, **latency_fields(np.array(latency_ms)), **monitor.fields()})
    return found

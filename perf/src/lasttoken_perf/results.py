"""The one form of all results: a self-describing JSON object with raw rows.

    schema     number of this form, `SCHEMA`
    kind       which command took it: "latency", "sweep", "peers", "profile", "gpu" ...
    what       one sentence
    taken_at   UTC, ISO 8601
    command    the command line
    revision   {"commit", "dirty"} of the checkout, None outside one
    machine    `machine.describe_machine`: processor, cores, memory, GPUs, versions
    model      {"name", "triton_name", "precision", "runtime", "dimensions", ...}
    workload   {"distribution", "texts", "tokens", "token_lengths", "seed", "sha256"}
    settings   what else decided the figures
    checks     what was verified of the answers, and how far they were off
    rows       one flat object a repeat and load point; its fields are those of `FIELDS`
    summary    rows that differ only in their repeat, each figure as {"min", "median", "max"}

A field that a row lacks was not measured; a figure is never zero for that reason. Readers (the
report, the planner's calibration points) select rows by ``subject``, ``precision``, ``load`` and
``device`` and leave out those with ``discarded``.
"""

from __future__ import annotations

import datetime
import json
import math
import shlex
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lasttoken_perf.errors import MalformedResult
from lasttoken_perf.machine import describe_machine, git_revision

SCHEMA = 1

Row = dict[str, Any]

FIELDS: dict[str, str] = {
    # What was measured, and under which load.
    "model": "catalogue name, where a result holds several models",
    "subject": "who answered: 'lasttoken server', 'bare engine', a peer's name",
    "version": "the subject's version",
    "device": "processor or GPU that computed",
    "precision": "of the weights: fp32, fp16, bf16, int8, q8_0 ...",
    "distribution": "of the lengths: queries, passages, documents, mixture",
    "load": "'concurrency' (closed loop), 'request_rate' (open loop), 'corpus', 'single', 'mixed';"
    " of the GPU suite also 'ceiling', 'parity' and 'export'",
    "concurrency": "requests at a time",
    "request_rate_per_s": "requests a second that were offered",
    "texts_per_request": "texts that one request carries",
    "service_class": "interactive or bulk",
    "dimensions": "elements of a vector, where a result holds several sizes",
    "repeat": "number of the repeat, from 1",
    "variant": "setting that was varied",
    # Throughput.
    "seconds": "wall time of the measurement",
    "requests": "requests answered",
    "texts_per_s": "texts answered a second",
    "tokens_per_s": "real tokens (no padding) answered a second",
    "goodput_texts_per_s": "texts answered a second within the latency objective",
    "objective_ms": "latency objective",
    "refused": "requests refused as overloaded",
    "failed": "requests that failed otherwise",
    "sent_late": "open loop: requests sent later than scheduled",
    # Latency as the client sees it.
    "mean_ms": "mean latency",
    "p50_ms": "median latency",
    "p90_ms": "90th percentile",
    "p95_ms": "95th percentile",
    "p99_ms": "99th percentile",
    "max_ms": "largest latency",
    "refused_p99_ms": "99th percentile of the time until a refusal",
    # Where the server spent it, mean a request; the encoder's are the scheduler's own figures.
    "tokenizer_queue_ms": "waiting for the tokenizer",
    "tokenizer_compute_ms": "in the tokenizer, transfers included",
    "encoder_transfer_ms": "from the tokenizer into the scheduler's queue",
    "encoder_queue_ms": "a row waiting in the scheduler's queue",
    "encoder_engine_ms": "a row's batch in the engine",
    "encoder_answer_ms": "from the engine's end until the answer was handed to Triton",
    "outside_ms": "the rest of the mean latency: gRPC, Triton's core, the client",
    # How full the batches were.
    "batches": "batches of the engine",
    "tokens_per_batch": "real tokens a batch",
    "rows_per_batch": "texts a batch",
    "batch_ms": "mean time of a batch in the engine",
    "real_over_computed_tokens": "1.0: nothing was padded",
    "real_over_computed_cells": "attention cells within texts over attention cells computed",
    "engine_busy": "time of the batches over wall time; above 1 where two ran beside each other",
    # Resources.
    "cpu_cores": "processor time of the subject over wall time, in cores",
    "cpu_s_per_1000_texts": "processor seconds of the client for a thousand texts",
    "gateway_cpu_s_per_1000_texts": "processor seconds of the gateway for a thousand texts",
    "rss_bytes": "largest resident memory of the subject and its children",
    "gpu_power_w": "mean power of the GPU",
    "gpu_memory_bytes": "largest memory in use on the GPU",
    "gpu_utilisation": "share of the time that the GPU ran a kernel",
    # What a precision costs, against fp32 on held-out text.
    "file_bytes": "graph and weights on disk",
    "embedding_bytes": "of these the token embedding",
    "mean_cosine": "mean cosine of a text's vector to its fp32 vector",
    "p1_cosine": "first percentile of these cosines",
    "minimum_cosine": "lowest of these cosines",
    "top10_overlap": "share of a query's ten best documents that fp32 finds too",
    "ndcg_at_10": "nDCG@10 on the retrieval set",
    "ndcg_change": "relative change of it from fp32",
    "ndcg_change_error": "standard error of the change",
    "bitwise_batch_invariant": "whether vectors are the same, bit by bit, in every batch",
    "task": "MTEB's name of a task",
    "metric": "what MTEB takes as the task's main score",
    "main_score": "that score, 0 to 1",
    "main_score_change": "relative change of it from fp32",
    "similarity_spearman": "rank correlation of pairs' similarities with those of fp32",
    # Against what the device can do at best.
    "flops_per_s": "floating-point operations of the model a second, padding not counted",
    "bytes_per_s": "bytes read and written a second",
    "fraction_of_ceiling": "flops_per_s over that of the model's own matrix products alone",
    "floor_ms": "time of reading every weight that a single text needs, at the memory's speed",
    "times_floor": "p50_ms over floor_ms",
    # Plans.
    "layers": "decoder layers of the graph",
    "weight_bytes": "weights of the graph, of all types",
    "plan_bytes": "size of the plan",
    # Judgement.
    "stable": "whether perf_analyzer found the point stable",
    "discarded": "why the row counts for nothing; absent when it counts",
}
"""Every field that a row may have, and what it means."""

NUMBERS_OF_A_POINT = (
    "concurrency",
    "request_rate_per_s",
    "texts_per_request",
    "dimensions",
    "objective_ms",
    "layers",
)
"""Numbers that say what a row is about; `summarise` keeps them as they are."""


def make_result(
    *,
    kind: str,
    what: str,
    rows: Sequence[Row],
    model: Mapping[str, Any] | None = None,
    workload: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    checks: Mapping[str, Any] | None = None,
    packages: Iterable[str] = (),
) -> dict[str, Any]:
    """Put a result together.

    Args:
        kind: Which command took it.
        what: One sentence.
        rows: The raw rows.
        model: What was served.
        workload: What was sent.
        settings: What else decided the figures.
        checks: What was verified.
        packages: Distributions whose version matters, besides the usual ones.

    Raises:
        MalformedResult: A row has a field that `FIELDS` does not document.
    """
    result = {
        "schema": SCHEMA,
        "kind": kind,
        "what": what,
        "taken_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["lasttoken-perf", *sys.argv[1:]]),
        "revision": git_revision(),
        "machine": describe_machine(packages),
        "model": dict(model or {}),
        "workload": dict(workload or {}),
        "settings": dict(settings or {}),
        "checks": dict(checks or {}),
        "rows": [dict(row) for row in rows],
        "summary": summarise(rows),
    }
    check_result(result)
    return result


def check_result(result: Mapping[str, Any]) -> None:
    """Check that an object has the form of this module.

    Raises:
        MalformedResult: It has not; the message names the place.
    """
    if result.get("schema") != SCHEMA:
        raise MalformedResult(f"schema is {result.get('schema')!r}, this version reads {SCHEMA}")
    for name in ("kind", "what", "taken_at", "machine", "rows"):
        if name not in result:
            raise MalformedResult(f"the result has no {name!r}")
    for number, row in enumerate(result["rows"]):
        for name, value in row.items():
            if name not in FIELDS:
                raise MalformedResult(
                    f"row {number} has the field {name!r}, which results.FIELDS does not document"
                )
            if isinstance(value, float) and not math.isfinite(value):
                raise MalformedResult(f"row {number}: {name} is {value!r}; leave it out")


def read_result(path: Path) -> dict[str, Any]:
    """Read a result.

    Raises:
        MalformedResult: The file is not one.
    """
    try:
        result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MalformedResult(f"{path} cannot be read as JSON: {error}") from None
    try:
        check_result(result)
    except MalformedResult as error:
        raise MalformedResult(f"{path}: {error}") from None
    return result


def summarise(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Put together the repeats of a point; rows with ``discarded`` count for nothing.

    Returns:
        One object a point, in order of first appearance: what the point is, ``repeats``, and each
        figure's `spread`.
    """
    points: dict[tuple[tuple[str, Any], ...], list[Row]] = {}
    for row in rows:
        if "discarded" not in row:
            point = tuple((name, row[name]) for name in row if _describes(name, row[name]))
            points.setdefault(point, []).append(row)
    summary = []
    for point, repeats in points.items():
        names = {name: None for row in repeats for name in row}
        figures = {
            name: spread([row[name] for row in repeats if name in row])
            for name in names
            if name != "repeat" and name not in dict(point)
        }
        summary.append({**dict(point), "repeats": len(repeats), **figures})
    return summary


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return smallest, median and largest of at least one value."""
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def _describes(name: str, value: object) -> bool:
    return name in NUMBERS_OF_A_POINT or isinstance(value, str)

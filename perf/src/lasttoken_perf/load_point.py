"""One load point as a row: perf_analyzer, the server's metrics and the resources together."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from lasttoken_perf.answers import check_answers
from lasttoken_perf.latency import latency_fields
from lasttoken_perf.machine import device_name
from lasttoken_perf.monitor import ResourceMonitor
from lasttoken_perf.perf_analyzer.run import LoadPoint, run_perf_analyzer, warm_up
from lasttoken_perf.results import Row
from lasttoken_perf.server_figures import Scrape, figures, settled_scrape, with_outside
from lasttoken_perf.serving import Serving
from lasttoken_perf.workload import Workload

SUBJECT = "lasttoken server"


def measure(
    command: Sequence[str],
    serving: Serving,
    workload: Workload,
    point: LoadPoint,
    *,
    repeat: int,
    objective_ms: float | None = None,
) -> tuple[Row, dict[str, float] | None]:
    """Measure one load point once.

    Args:
        command: perf_analyzer's.
        serving: The server.
        workload: What is sent.
        point: The load.
        repeat: Number of the repeat, from 1.
        objective_ms: Latency objective; None leaves goodput out.

    Returns:
        The row, and the checks of its answers (None where perf_analyzer reported none).

    Raises:
        WrongAnswer: The answers are not right.
        PeerFailed: perf_analyzer failed.
        MetricsUnavailable: The server's metrics cannot be read any more.
    """
    row: Row = {
        "subject": SUBJECT,
        "device": device_name(),
        "precision": serving.precision,
        "distribution": workload.distribution,
        **_load_fields(point),
        "texts_per_request": 1,
        "repeat": repeat,
    }
    if point.request_rate_per_s is not None:
        warm_up(serving.url, serving.triton_name, workload.texts, point)
    before, started_s = _scrape(serving), time.perf_counter()
    with ResourceMonitor(serving.pid) as monitor:
        measured = run_perf_analyzer(
            command,
            url=serving.url,
            model=serving.triton_name,
            texts=workload.texts,
            point=point,
        )
    seconds, after = time.perf_counter() - started_s, _scrape(serving)
    row["stable"] = measured.stable
    if measured.discarded is not None:
        row["discarded"] = measured.discarded
    if measured.seen is None:
        return row, None
    seen = measured.seen
    workload.count(seen.texts, seen.token_counts, seen.truncated)
    checks = check_answers(seen.texts, seen.vectors, serving.dimensions, workload.known)
    row |= {
        "seconds": seen.seconds,
        "requests": len(seen.texts),
        "texts_per_s": len(seen.texts) / seen.seconds,
        "tokens_per_s": int(seen.token_counts.sum()) / seen.seconds,
        **latency_fields(seen.latency_ms),
    }
    if objective_ms is not None:
        within = int((seen.latency_ms <= objective_ms).sum())
        row |= {"objective_ms": objective_ms, "goodput_texts_per_s": within / seen.seconds}
    if before is not None and after is not None:
        # Of the whole call, a closed loop's warm-up included: metrics have no windows.
        row |= figures(before, after, serving.triton_name, seconds)
    return with_outside(row | monitor.fields()), checks


def _load_fields(point: LoadPoint) -> dict[str, Any]:
    if point.concurrency is not None:
        return {"load": "concurrency", "concurrency": point.concurrency}
    return {"load": "request_rate", "request_rate_per_s": point.request_rate_per_s}


def _scrape(serving: Serving) -> Scrape | None:
    return None if serving.metrics_url is None else settled_scrape(serving.metrics_url)

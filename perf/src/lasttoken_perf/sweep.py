"""Latency against load: concurrencies, request rates, and the rate that an objective allows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lasttoken_perf.answers import worst
from lasttoken_perf.kept_rows import rows_kept
from lasttoken_perf.load_point import measure
from lasttoken_perf.objective import offered, peak_texts_per_s, search_rate
from lasttoken_perf.perf_analyzer.run import LoadPoint
from lasttoken_perf.results import Row, make_result
from lasttoken_perf.serving import Serving
from lasttoken_perf.workload import Workload, make_workload


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepOptions:
    """What is measured.

    Attributes:
        distributions: Names of the lengths, each swept.
        concurrencies: Closed-loop points.
        request_rates_per_s: Open-loop points (Poisson).
        repeats: Times each point is measured, all points in turn.
        texts: Distinct texts of each distribution.
        requests: Requests of a measurement window; a point takes three windows or more.
        warmup_requests: Requests of a point before anything is timed; of a closed loop twice its
            concurrency at least, as its first requests wait for less than the later ones.
        stability: See `LoadPoint`.
        seed: Decides the texts.
        objective_ms: p95 that the highest request rate is searched for; None for no search.
        search_steps: Points of that search.
    """

    distributions: Sequence[str]
    concurrencies: Sequence[int] = ()
    request_rates_per_s: Sequence[float] = ()
    repeats: int = 3
    texts: int = 200
    requests: int = 100
    warmup_requests: int = 32
    stability: float = 0.25
    seed: int = 7
    objective_ms: float | None = None
    search_steps: int = 5


def run_sweep(
    kind: str,
    command: Sequence[str],
    serving: Serving,
    options: SweepOptions,
    *,
    say: Callable[[str], None],
    output: Path | None = None,
) -> dict[str, Any]:
    """Measure all points and return the result (see `lasttoken_perf.results`).

    Args:
        kind: "latency" or "sweep".
        command: perf_analyzer's.
        serving: The server.
        options: What is measured.
        say: Told what is being done.
        output: Gets the points that were finished, should a signal or an error end the run.

    Raises:
        WrongAnswer: The server's answers are not right.
        PeerFailed: perf_analyzer failed.
        MetricsUnavailable: The server's metrics cannot be read any more.
        Interrupted: A signal came.
    """
    rows: list[Row] = []
    checks: list[dict[str, float]] = []
    found: dict[str, float | None] = {}
    workloads = [
        make_workload(serving, name, texts=options.texts, seed=options.seed)
        for name in options.distributions
    ]

    def take(workload: Workload, repeat: int, **load: Any) -> Row:
        point = LoadPoint(
            requests=options.requests,
            warmup_requests=max(options.warmup_requests, 2 * load.get("concurrency", 0)),
            stability=options.stability,
            **load,
        )
        row, check = measure(
            command, serving, workload, point, repeat=repeat, objective_ms=options.objective_ms
        )
        rows.append(row)
        if check is not None:
            checks.append(check)
        say(_line(row))
        return row

    def search(workload: Workload) -> None:
        assert options.objective_ms is not None
        peak = peak_texts_per_s(rows, workload.distribution)
        if peak is None:
            say(f"{workload.distribution}: no closed-loop point counts, so no rate is searched")
            return

        def p95_ms(rate: float) -> float | None:
            row = take(workload, 1, request_rate_per_s=offered(rate))
            return None if "discarded" in row else float(row["p95_ms"])

        found[workload.distribution] = search_rate(
            p95_ms, highest=peak, objective_ms=options.objective_ms, steps=options.search_steps
        )

    def result(interrupted: str | None = None) -> dict[str, Any]:
        objective = {} if options.objective_ms is None else {"objective_ms": options.objective_ms}
        return make_result(
            kind=kind,
            what="latency against load, measured by perf_analyzer",
            rows=rows,
            model=serving.description,
            workload={w.distribution: w.describe() for w in workloads},
            settings={
                "perf_analyzer": command[-1].rsplit("/", 4)[1],
                "requests_per_window": options.requests,
                "warmup_requests": options.warmup_requests,
                "stability": options.stability,
                **objective,
                "rate_at_objective_per_s": found,
            },
            checks=worst(checks),
            interrupted=interrupted,
        )

    def finished(ended_by: str) -> dict[str, Any] | None:
        return result(f"{ended_by} after {len(rows)} load points") if rows else None

    with rows_kept(output, finished):
        for repeat in range(1, options.repeats + 1):
            for workload in workloads:
                for concurrency in options.concurrencies:
                    take(workload, repeat, concurrency=concurrency)
                for rate in options.request_rates_per_s:
                    take(workload, repeat, request_rate_per_s=rate)
        if options.objective_ms is not None and options.search_steps:
            for workload in workloads:
                search(workload)
    return result()


def _line(row: Row) -> str:
    load = (
        f"concurrency {row['concurrency']}"
        if row["load"] == "concurrency"
        else f"{row['request_rate_per_s']:g} requests/s"
    )
    if "discarded" in row:
        return f"{row['distribution']}, {load}: discarded: {row['discarded']}"
    speed = f"{row['texts_per_s']:.1f} texts/s, {row['tokens_per_s']:.0f} tokens/s"
    latency = f"p50 {row['p50_ms']:.1f} ms, p99 {row['p99_ms']:.1f} ms"
    return f"{row['distribution']}, {load}: {speed}, {latency}"

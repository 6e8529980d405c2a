"""Twice the load that can be sustained, and interactive requests beside bulk.

perf_analyzer gives up at the first refused request, so this load is sent by our own client, which
does not try again: every request is either answered or refused.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lasttoken_perf.answers import check_answers, worst
from lasttoken_perf.errors import PeerFailed
from lasttoken_perf.kept_rows import after_rows, rows_kept
from lasttoken_perf.load_point import SUBJECT
from lasttoken_perf.machine import device_name
from lasttoken_perf.monitor import ResourceMonitor
from lasttoken_perf.overload_traffic import Outcomes, beside_bulk, closed_loop, open_loop
from lasttoken_perf.results import Row, make_result
from lasttoken_perf.server_figures import figures, scrape
from lasttoken_perf.serving import Serving
from lasttoken_perf.workload import Workload, make_workload


@dataclass(frozen=True, slots=True, kw_only=True)
class OverloadOptions:
    """What is measured.

    Attributes:
        distribution: Of the lengths.
        seconds: Of each stretch of load.
        factor: Offered load over the sustained one.
        clients: Requests at a time while the sustained load is found.
        repeats: Of everything.
        texts: Distinct texts.
        seed: Decides texts and arrivals.
    """

    distribution: str = "mixture"
    seconds: float = 45.0
    factor: float = 2.0
    clients: int = 64
    repeats: int = 3
    texts: int = 200
    seed: int = 7


def run_overload(
    serving: Serving,
    options: OverloadOptions,
    *,
    say: Callable[[str], None],
    output: Path | None = None,
) -> dict[str, Any]:
    """Measure the sustained load, then ``factor`` times it, then interactive beside bulk.

    Args:
        serving: The server.
        options: What is measured.
        say: Told each figure.
        output: Gets the rows that were finished, should a signal or an error end the run.

    Raises:
        WrongAnswer: The server's answers are not right.
        PeerFailed: It answered nothing in a stretch.
    """
    workload = make_workload(serving, options.distribution, texts=options.texts, seed=options.seed)
    queries = make_workload(serving, "queries", texts=options.texts, seed=options.seed)
    rows: list[Row] = []
    checks: list[dict[str, float]] = []

    def check(outcomes: Outcomes, used: Workload) -> None:
        if outcomes.vectors:
            vectors = np.stack(outcomes.vectors)
            checks.append(check_answers(outcomes.texts, vectors, serving.dimensions, used.known))

    def stretch(
        traffic: Coroutine[Any, Any, Outcomes],
        used: Workload,
        *,
        bulk: Outcomes | None = None,
        **about: Any,
    ) -> Row:
        assert serving.metrics_url is not None, "the server was started without metrics"
        before, started_s = scrape(serving.metrics_url), time.perf_counter()
        with ResourceMonitor(serving.pid) as monitor:
            outcomes = asyncio.run(traffic)
        # The server's figures are of both loads, until the last request of either.
        ended_s = max(load.last_s for load in (outcomes, bulk) if load is not None)
        seconds = ended_s - started_s
        check(outcomes, used)
        server = figures(before, scrape(serving.metrics_url), serving.triton_name, seconds)
        server.pop("refused")  # the client's count is of this load alone
        row: Row = {
            "subject": SUBJECT,
            "device": device_name(),
            "precision": serving.precision,
            "distribution": used.distribution,
            "texts_per_request": 1,
            **about,
            **server,
            **outcomes.fields(),
            **monitor.fields(),
        }
        rows.append(row)
        say(_line(row))
        if not outcomes.vectors:
            raise PeerFailed(
                f"{row['variant']}: no request was answered; {outcomes.failed} failed and "
                f"{row['refused']} were refused. The server's log says why"
            )
        return row

    def result(interrupted: str | None = None) -> dict[str, Any]:
        return make_result(
            kind="overload",
            what="beyond the sustained load: goodput, refusals, and interactive requests beside "
            "bulk",
            rows=rows,
            model=serving.description,
            workload=workload.describe(),
            settings={"factor": options.factor, "seconds": options.seconds},
            checks=worst(checks),
            interrupted=interrupted,
        )

    with rows_kept(output, after_rows(rows, result)):
        for repeat in range(1, options.repeats + 1):
            sustained = stretch(
                closed_loop(serving, workload, options.clients, options.seconds), workload,
                load="concurrency", concurrency=options.clients, repeat=repeat,
                variant="sustained",
            )  # fmt: skip
            rate = options.factor * sustained["texts_per_s"]
            stretch(
                open_loop(serving, workload, rate, options.seconds, options.seed + repeat),
                workload,
                load="request_rate", offered_texts_per_s=rate, repeat=repeat,
                variant=f"{options.factor:g} times the sustained",
            )  # fmt: skip
            bulk = Outcomes()
            beside = stretch(
                beside_bulk(serving, queries, workload, options.clients, options.seconds, bulk),
                queries, bulk=bulk,
                load="mixed", service_class="interactive", repeat=repeat,
                variant="interactive beside bulk",
            )  # fmt: skip
            check(bulk, workload)
            told = ("subject", "device", "precision", "texts_per_request", "load", "repeat")
            rows.append({
                **{name: beside[name] for name in told}, "distribution": workload.distribution,
                "service_class": "bulk", "variant": "bulk beside interactive", **bulk.fields(),
            })  # fmt: skip
            say(_line(rows[-1]))
    return result()


def bars(rows: Sequence[Row]) -> dict[str, list[float]]:
    """Return, repeat by repeat, the figures that the bars are about.

    Returns:
        ``goodput_over_sustained``: tokens answered a second of the stretch beyond the sustained
        load, over those of the sustained one; ``refused_p99_ms``; ``accepted_p99_ms``;
        ``interactive_p99_ms`` beside bulk, and ``interactive_p99_batches``, the same in mean batch
        times of the sustained load, whose texts are the bulk ones.
    """
    found: dict[str, list[float]] = {}
    sustained = {row["repeat"]: row for row in rows if row["variant"] == "sustained"}
    for row in rows:
        if row["variant"] == "interactive beside bulk":
            if "p99_ms" in row:
                batches = row["p99_ms"] / sustained[row["repeat"]]["batch_ms"]
                found.setdefault("interactive_p99_ms", []).append(row["p99_ms"])
                found.setdefault("interactive_p99_batches", []).append(batches)
        elif row["load"] == "request_rate":
            goodput = row["tokens_per_s"] / sustained[row["repeat"]]["tokens_per_s"]
            found.setdefault("goodput_over_sustained", []).append(goodput)
            for name, value in (("refused_p99_ms", row.get("refused_p99_ms")),
                                ("accepted_p99_ms", row.get("p99_ms"))):  # fmt: skip
                if value is not None:
                    found.setdefault(name, []).append(value)
    return found


def _line(row: Row) -> str:
    latency = f", p50 {row['p50_ms']:.0f} ms, p99 {row['p99_ms']:.0f} ms" if "p99_ms" in row else ""
    return (
        f"{row['variant']}: {row['requests']} answered, {row['refused']} refused, "
        f"{row['failed']} failed, "
        f"{row.get('tokens_per_s', 0):.0f} tokens/s{latency}"
    )

"""Twice the load that can be sustained, and interactive requests beside bulk.

perf_analyzer gives up at the first refused request, so this load is sent by our own client, which
does not try again: every request is either answered or refused.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lasttoken import AsyncEmbeddingClient, LasttokenError, RetryPolicy, ServerOverloaded
from lasttoken_perf.answers import check_answers, worst
from lasttoken_perf.latency import latency_fields
from lasttoken_perf.load_point import SUBJECT
from lasttoken_perf.machine import device_name
from lasttoken_perf.monitor import ResourceMonitor
from lasttoken_perf.results import Row, make_result
from lasttoken_perf.server_figures import figures, scrape
from lasttoken_perf.serving import Serving
from lasttoken_perf.workload import Workload, make_workload

_CALL_TIMEOUT_S = 300.0
_NO_RETRY = RetryPolicy(max_attempts=1)


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
    seconds: float = 15.0
    factor: float = 2.0
    clients: int = 64
    repeats: int = 3
    texts: int = 200
    seed: int = 7


@dataclass(slots=True)
class Outcomes:
    """What became of the requests of one stretch."""

    texts: list[str] = field(default_factory=list)
    vectors: list[NDArray[np.float32]] = field(default_factory=list)
    latency_ms: list[float] = field(default_factory=list)
    refused_ms: list[float] = field(default_factory=list)
    failed: int = 0

    def fields(self, seconds: float) -> dict[str, Any]:
        """Return the row's fields of what the client saw."""
        row: dict[str, Any] = {
            "seconds": seconds,
            "requests": len(self.latency_ms),
            "texts_per_s": len(self.latency_ms) / seconds,
            "refused": len(self.refused_ms),
            "failed": self.failed,
        }
        if self.latency_ms:
            row |= latency_fields(np.array(self.latency_ms))
        if self.refused_ms:
            row["refused_p99_ms"] = float(np.percentile(self.refused_ms, 99))
        return row


def run_overload(
    serving: Serving, options: OverloadOptions, *, say: Callable[[str], None]
) -> dict[str, Any]:
    """Measure the sustained load, then ``factor`` times it, then interactive beside bulk.

    Raises:
        WrongAnswer: The server's answers are not right.
    """
    workload = make_workload(serving, options.distribution, texts=options.texts, seed=options.seed)
    queries = make_workload(serving, "queries", texts=options.texts, seed=options.seed)
    rows: list[Row] = []
    checks: list[dict[str, float]] = []

    def stretch(traffic: Any, used: Workload, **about: Any) -> Row:
        assert serving.metrics_url is not None, "the server was started without metrics"
        before, started_s = scrape(serving.metrics_url), time.perf_counter()
        with ResourceMonitor(serving.pid) as monitor:
            outcomes = asyncio.run(traffic)
        seconds, after = time.perf_counter() - started_s, scrape(serving.metrics_url)
        if outcomes.vectors:
            vectors = np.stack(outcomes.vectors)
            checks.append(check_answers(outcomes.texts, vectors, serving.dimensions, used.known))
        server = figures(before, after, serving.triton_name, seconds)
        server.pop("refused")  # the client's count is of this load alone
        row: Row = {
            "subject": SUBJECT,
            "device": device_name(),
            "precision": serving.precision,
            "distribution": used.distribution,
            "texts_per_request": 1,
            **about,
            **server,
            **outcomes.fields(seconds),
            **monitor.fields(),
        }
        if "batches" in row:
            row["tokens_per_s"] = row["batches"] * row["tokens_per_batch"] / seconds
        rows.append(row)
        say(_line(row))
        return row

    for repeat in range(1, options.repeats + 1):
        sustained = stretch(
            _closed(serving, workload, options.clients, options.seconds), workload,
            load="concurrency", concurrency=options.clients, repeat=repeat,
            variant="sustained",
        )  # fmt: skip
        rate = options.factor * sustained["texts_per_s"]
        stretch(
            _open(serving, workload, rate, options.seconds, options.seed + repeat), workload,
            load="request_rate", repeat=repeat, variant=f"{options.factor:g} times the sustained",
        )  # fmt: skip
        stretch(
            _interactive_beside_bulk(serving, queries, workload, options), queries,
            load="mixed", service_class="interactive", repeat=repeat,
            variant="interactive beside bulk",
        )  # fmt: skip
    return make_result(
        kind="overload",
        what="beyond the sustained load: goodput, refusals, and interactive requests beside bulk",
        rows=rows,
        model=serving.description,
        workload=workload.describe(),
        settings={"factor": options.factor, "seconds": options.seconds},
        checks=worst(checks),
    )


async def _closed(serving: Serving, workload: Workload, clients: int, seconds: float) -> Outcomes:
    outcomes = Outcomes()
    end_s = time.perf_counter() + seconds
    texts = _endless(workload.texts, seed=1)
    async with _client(serving) as client:

        async def one() -> None:
            while time.perf_counter() < end_s:
                await _send(client, next(texts), outcomes)

        await asyncio.gather(*(one() for _ in range(clients)))
    return outcomes


async def _open(
    serving: Serving, workload: Workload, rate: float, seconds: float, seed: int
) -> Outcomes:
    outcomes = Outcomes()
    randomness = random.Random(seed)
    texts = _endless(workload.texts, seed=seed)
    loop = asyncio.get_running_loop()
    async with _client(serving) as client:
        tasks = []
        at_s = loop.time()
        end_s = at_s + seconds
        while at_s < end_s:
            at_s += randomness.expovariate(rate)
            await asyncio.sleep(max(0.0, at_s - loop.time()))
            tasks.append(asyncio.create_task(_send(client, next(texts), outcomes)))
        await asyncio.gather(*tasks)
    return outcomes


async def _interactive_beside_bulk(
    serving: Serving, queries: Workload, bulk: Workload, options: OverloadOptions
) -> Outcomes:
    """Interactive queries one at a time while ``clients`` bulk requests are always waiting."""
    outcomes, unused = Outcomes(), Outcomes()
    end_s = time.perf_counter() + options.seconds
    texts, short = _endless(bulk.texts, seed=2), _endless(queries.texts, seed=3)
    async with _client(serving) as client:

        async def one_bulk() -> None:
            while time.perf_counter() < end_s:
                await _send(client, next(texts), unused, priority="bulk")

        async def interactive() -> None:
            await asyncio.sleep(min(2.0, options.seconds / 4))
            while time.perf_counter() < end_s:
                await _send(client, next(short), outcomes)

        await asyncio.gather(*(one_bulk() for _ in range(options.clients)), interactive())
    return outcomes


async def _send(
    client: AsyncEmbeddingClient, text: str, outcomes: Outcomes, priority: Any = "interactive"
) -> None:
    sent_s = time.perf_counter()
    try:
        vector = await client.embed(text, timeout_s=_CALL_TIMEOUT_S, priority=priority)
    except ServerOverloaded:
        outcomes.refused_ms.append(1000 * (time.perf_counter() - sent_s))
        await asyncio.sleep(0)
        return
    except LasttokenError:
        outcomes.failed += 1
        return
    outcomes.latency_ms.append(1000 * (time.perf_counter() - sent_s))
    outcomes.texts.append(text)
    outcomes.vectors.append(vector)


def _client(serving: Serving) -> AsyncEmbeddingClient:
    return AsyncEmbeddingClient(serving.url, serving.triton_name, retry=_NO_RETRY)


def _endless(texts: Sequence[str], *, seed: int) -> Any:
    randomness = random.Random(seed)
    while True:
        order = list(texts)
        randomness.shuffle(order)
        yield from order


def bars(rows: Sequence[Row]) -> dict[str, list[float]]:
    """Return, repeat by repeat, the figures that the bars are about.

    Returns:
        ``goodput_over_sustained``: texts answered a second of engine time beyond the sustained
        load; ``refused_p99_ms``; ``accepted_p99_ms``; ``interactive_p99_ms`` beside bulk, and
        ``interactive_p99_batches``, the same in mean batch times of the sustained load, whose
        texts are the bulk ones.
    """
    found: dict[str, list[float]] = {}
    sustained = {row["repeat"]: row for row in rows if row["variant"] == "sustained"}
    for row in rows:
        if row["variant"] == "interactive beside bulk":
            if "p99_ms" in row:
                batches = row["p99_ms"] / sustained[row["repeat"]]["batch_ms"]
                found.setdefault("interactive_p99_ms", []).append(row["p99_ms"])
                found.setdefault("interactive_p99_batches", []).append(batches)
        elif row["variant"] != "sustained":
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
        f"{row.get('tokens_per_s', 0):.0f} tokens/s{latency}"
    )

"""The soak: find the capacity, then offer a share of it for long, and look for drift."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from lasttoken import AsyncEmbeddingClient
from lasttoken.local import LocalTriton
from lasttoken_perf.corpus import texts_of
from lasttoken_perf.errors import InvalidSoak, WrongAnswer
from lasttoken_perf.gateway_process import gateway_process
from lasttoken_perf.kept_rows import rows_kept
from lasttoken_perf.results import make_result
from lasttoken_perf.server_figures import figures, settled_scrape
from lasttoken_perf.server_processes import resident_bytes, server_processes
from lasttoken_perf.steady.mix import KINDS, endless_requests, poisson_times_s
from lasttoken_perf.steady.outcome import RIGHT, Outcome, errors_of, latency_rows, memory_rows
from lasttoken_perf.steady.traffic import Traffic

_MEMORY_SAMPLES, _SHORTEST_PERIOD_S = 360, 0.25
_REPORT_S = 60.0
_AFTERWARDS = 10

Memory = dict[str, list[tuple[float, int]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class SteadyOptions:
    """How long and how hard.

    Attributes:
        seconds: Of the soak.
        load: Offered load over the capacity.
        capacity_seconds: Of the closed loop that the capacity is measured by.
        clients: Requests at a time in that loop.
        texts: Distinct texts of each kind.
        seed: Decides texts, order and times.

    Raises:
        InvalidSoak: A value is not positive.
    """

    seconds: float = 1800.0
    load: float = 0.8
    capacity_seconds: float = 60.0
    clients: int = 32
    texts: int = 40
    seed: int = 17

    def __post_init__(self) -> None:
        for name in ("seconds", "load", "capacity_seconds", "clients", "texts"):
            if not getattr(self, name) > 0:
                raise InvalidSoak(f"{name} is {getattr(self, name)!r}; it must be positive")


@dataclass(slots=True)
class _Run:
    """What is known so far; ``begin_s`` on `time.perf_counter`, None before the load begins."""

    capacity_per_s: float = 0.0
    due_s: Sequence[float] = ()
    begin_s: float | None = None
    outcomes: list[Outcome] = field(default_factory=list)
    other_outcomes: list[Outcome] = field(default_factory=list)
    memory: Memory = field(default_factory=dict)


def run_steady(
    server: LocalTriton,
    model: str,
    options: SteadyOptions,
    *,
    say: Callable[[str], None],
    output: Path | None = None,
) -> dict[str, Any]:
    """Run the soak against a server, with a gateway of its own, and return the result.

    The caller looks at ``errors``: a soak with errors is still a result.

    Args:
        server: The server.
        model: The ensemble.
        options: How long and how hard.
        say: Told the figures of each minute.
        output: Where the result so far is kept if a signal or an error ends the soak.

    Raises:
        InvalidSoak: No request falls within the time.
        WrongAnswer: Different texts share a vector, or a request failed while the capacity was
            measured.
        MissingLibrary: The gateway's libraries or the openai package are not installed.
    """
    run = _Run()

    def finished(ended_by: str) -> dict[str, Any] | None:
        if run.begin_s is None or not run.outcomes:
            return None
        seconds = min(time.perf_counter() - run.begin_s, options.seconds)
        result = _result(run, model, options, seconds=seconds, stretch_s=seconds)
        return result | {"interrupted": f"{ended_by} after {seconds:.0f} s"}

    with gateway_process(server.grpc_url) as gateway, rows_kept(output, finished):
        processes = server_processes(server.pid)
        processes["gateway"] = psutil.Process(gateway.process.pid)
        return asyncio.run(_run(server, gateway.url, model, processes, options, say, run))


async def _run(
    server: LocalTriton,
    gateway_url: str,
    model: str,
    processes: Mapping[str, psutil.Process],
    options: SteadyOptions,
    say: Callable[[str], None],
    run: _Run,
) -> dict[str, Any]:
    texts = {
        kind.distribution: texts_of(kind.distribution, options.texts, seed=options.seed)
        for kind in KINDS
    }
    say(f"embedding {len(KINDS) * options.texts} texts alone")
    expected = await _alone(server.grpc_url, model, [t for ts in texts.values() for t in ts])
    requests = endless_requests(texts, seed=options.seed)
    assert server.metrics_url is not None, "the server was started without metrics"
    async with Traffic(server.grpc_url, gateway_url, model, expected) as traffic:
        await traffic.closed(requests, clients=options.clients, seconds=options.capacity_seconds)
        run.other_outcomes += traffic.outcomes
        run.capacity_per_s = capacity(traffic.outcomes)
        rate_per_s = options.load * run.capacity_per_s
        say(f"capacity {run.capacity_per_s:.2f} requests/s, offering {rate_per_s:.2f}/s")
        traffic.outcomes = run.outcomes
        run.due_s = poisson_times_s(rate_per_s, options.seconds, seed=options.seed + 1)
        if not run.due_s:
            raise InvalidSoak(f"no request falls within {options.seconds:g} s; soak for longer")
        before, run.begin_s = settled_scrape(server.metrics_url), time.perf_counter()
        run.memory |= {name: [] for name in processes}
        watching = [
            asyncio.create_task(_watch_memory(processes, run.memory, options.seconds)),
            asyncio.create_task(_report(traffic, run.memory, say)),
        ]
        await traffic.open(requests, run.due_s)
        seconds = time.perf_counter() - run.begin_s
        for task in watching:
            task.cancel()
        after = settled_scrape(server.metrics_url)
        # Nothing may be left over: the same texts again, now that the load is gone.
        traffic.outcomes = []
        again = endless_requests(texts, seed=options.seed + 2)
        for _ in range(_AFTERWARDS):
            await traffic.once(next(again))
        run.other_outcomes += traffic.outcomes
    return _result(run, model, options, seconds=seconds, stretch_s=options.seconds) | {
        "server": figures(before, after, model, seconds)
    }


def _result(
    run: _Run, model: str, options: SteadyOptions, *, seconds: float, stretch_s: float
) -> dict[str, Any]:
    """Return what the soak has come to; requests that are still in flight count as unanswered.

    Args:
        run: What is known.
        model: The ensemble.
        options: What was asked for.
        seconds: From the begin of the load to its last answer, or to its interruption.
        stretch_s: In which requests were due: all of the asked for, or up to the interruption.
    """
    offered = sum(due_s <= stretch_s for due_s in run.due_s)
    made = make_result(
        kind="soak",
        what="mixed traffic at a share of the capacity: errors, drift of memory and of latency",
        rows=[],
        model={"triton_name": model},
        settings=asdict(options) | {"mix": [asdict(kind) for kind in KINDS]},
        packages=("openai", "uvicorn"),
    )
    return made | {
        "capacity_requests_per_s": run.capacity_per_s,
        "offered_requests_per_s": offered / stretch_s,
        "seconds": seconds,
        "requests": offered,
        "unanswered": offered - len(run.outcomes),
        "right": sum(outcome.result == RIGHT for outcome in run.outcomes),
        "errors": errors_of([*run.other_outcomes, *run.outcomes]),
        "sent_late_p99_ms": 1e3 * float(np.percentile([o.late_s for o in run.outcomes], 99)),
        "latency": latency_rows(run.outcomes, stretch_s),
        "memory": list(memory_rows(run.memory)),
    }


def capacity(outcomes: Sequence[Outcome]) -> float:
    """Return the requests a second of a closed loop, from its begin to its very last answer.

    The tail counts: bulk requests wait, so that when the loop ends much of the work, though few of
    the requests, is still to be done.

    Raises:
        WrongAnswer: A request was not answered right.
    """
    if not outcomes or errors_of(outcomes):
        raise WrongAnswer(f"while the capacity was measured: {errors_of(outcomes) or 'no answer'}")
    return len(outcomes) / max(o.due_s + o.latency_s for o in outcomes)


async def _alone(url: str, model: str, texts: Sequence[str]) -> dict[str, NDArray[np.float32]]:
    """Each text alone, so that later comparisons are also ones of batch invariance."""
    async with AsyncEmbeddingClient(url, model) as client:
        vectors = {text: await client.embed(text, timeout_s=120.0) for text in texts}
    if len({vector.tobytes() for vector in vectors.values()}) < 0.9 * len(vectors):
        raise WrongAnswer("different texts share a vector: the check would prove nothing")
    return vectors


async def _watch_memory(
    processes: Mapping[str, psutil.Process], memory: Memory, seconds: float
) -> None:
    begin_s = time.perf_counter()
    while True:
        for name, process in processes.items():
            if (size := resident_bytes(process)) is not None:
                memory[name].append((time.perf_counter() - begin_s, size))
        await asyncio.sleep(max(_SHORTEST_PERIOD_S, seconds / _MEMORY_SAMPLES))


async def _report(traffic: Traffic, memory: Memory, say: Callable[[str], None]) -> None:
    told = 0
    while True:
        await asyncio.sleep(_REPORT_S)
        latest, told = traffic.outcomes[told:], len(traffic.outcomes)
        p99_ms = 1e3 * np.percentile([o.latency_s for o in latest], 99) if latest else 0.0
        sizes = ", ".join(f"{name} {s[-1][1] / 1e6:.0f}" for name, s in memory.items() if s)
        say(
            f"{told} done, errors: {errors_of(traffic.outcomes) or 0}, p99 {p99_ms:.0f} ms; "
            f"MB: {sizes}"
        )

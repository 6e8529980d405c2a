"""What the gateway costs beside raw gRPC, with an instant encoder: vectors a second, CPU time."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import psutil

from lasttoken_perf.errors import MissingLibrary, PeerFailed
from lasttoken_perf.gateway_process import gateway_process
from lasttoken_perf.instant_server import InstantServer, instant_server
from lasttoken_perf.overhead_load import WAYS

LOADS = ((64, 1, 2048), (8, 64, 48))
"""Requests in flight, texts a request, requests of a full measurement."""


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def check_libraries() -> None:
    """Check for what the contestants need beside this package, before the work.

    Raises:
        MissingLibrary: A package is not installed.
    """
    for module, extra in (
        ("openai", "openai"),
        ("orjson", "'lasttoken[gateway]'"),
        ("uvicorn", "'lasttoken[gateway]'"),
    ):
        if importlib.util.find_spec(module) is None:
            raise MissingLibrary(f"this measurement needs {module!r}: pip install {extra}")


def _round(
    server: InstantServer, process: psutil.Process, url: str, *, repeat: int, share: float
) -> Iterator[dict[str, Any]]:
    for in_flight, texts, full in LOADS:
        requests = max(in_flight, int(full * share))
        for way in WAYS:
            target = server.grpc_url if way == "raw gRPC" else url
            numbers = (server.dimensions, requests, texts, in_flight)
            before = _cpu_s(process)
            done = subprocess.run(
                [sys.executable, "-m", "lasttoken_perf.overhead_load", way, target, server.model,
                 *map(str, numbers)],
                stdout=subprocess.PIPE, check=False,
            )  # fmt: skip
            if done.returncode != 0:
                raise PeerFailed(
                    f"{way}: the process that sends its requests ended with exit code "
                    f"{done.returncode}; what it said is above"
                )
            gateway_cpu_s = _cpu_s(process) - before
            told = json.loads(done.stdout)
            # The gateway's share holds the warm-up too: one request for each in flight.
            warmed = told["texts"] + in_flight * texts
            row = {
                "subject": way,
                "dimensions": server.dimensions,
                "concurrency": in_flight,
                "texts_per_request": texts,
                "repeat": repeat,
                "seconds": told["seconds"],
                "texts_per_s": told["texts"] / told["seconds"],
                "cpu_s_per_1000_texts": 1000 * told["client_cpu_s"] / told["texts"],
            }
            if way != "raw gRPC":
                row["gateway_cpu_s_per_1000_texts"] = 1000 * gateway_cpu_s / warmed
            yield row


def run_gateway_overhead(
    *,
    sizes: tuple[int, ...],
    repeats: int,
    share: float = 1.0,
    cache_folder: Path | None,
    say: Callable[[str], None],
    keeping: Callable[[list[dict[str, Any]]], AbstractContextManager[None]] = lambda _: (
        nullcontext()
    ),
) -> list[dict[str, Any]]:
    """Measure all contestants in turn, `repeats` times, for vectors of each size.

    Args:
        sizes: Elements of a vector.
        repeats: How often.
        share: Share of the requests of a full measurement, to try it out.
        cache_folder: Where packaged weights and Triton are kept.
        say: Told how far it is.
        keeping: Makes the block that the measurements run in, from the rows that they fill.

    Returns:
        One row a contestant, load, size and repeat.

    Raises:
        PeerFailed: A contestant ended before it had measured.
    """
    rows: list[dict[str, Any]] = []
    for size in sizes:
        with (
            instant_server(size, cache_folder=cache_folder) as server,
            gateway_process(server.grpc_url) as gateway,
            keeping(rows),
        ):
            for repeat in range(1, repeats + 1):
                say(f"{size} dimensions, repeat {repeat} of {repeats}")
                process = psutil.Process(gateway.process.pid)
                rows += _round(server, process, gateway.url, repeat=repeat, share=share)
    return rows

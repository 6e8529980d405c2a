"""One call of perf_analyzer: one load point, of concurrency or of request rate."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lasttoken import EmbeddingClient
from lasttoken_perf.errors import PeerFailed
from lasttoken_perf.perf_analyzer.profile_export import SeenRequests, read_profile_export

_TAIL_CHARACTERS = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadPoint:
    """One load. Exactly one of ``concurrency`` and ``request_rate_per_s`` is set.

    Attributes:
        concurrency: Requests at a time (closed loop).
        request_rate_per_s: Requests a second, Poisson (open loop).
        requests: Requests of a measurement window; three windows are taken at least.
        warmup_requests: Requests before anything is timed; of an open loop by `warm_up`.
        stability: perf_analyzer ends when throughput and p95 of three windows are within this
            share of each other.
        max_windows: It gives up after this many.
        timeout_s: The call is ended after this time.
    """

    concurrency: int | None = None
    request_rate_per_s: float | None = None
    requests: int = 200
    warmup_requests: int = 32
    stability: float = 0.25
    max_windows: int = 8
    timeout_s: float = 240.0

    def __post_init__(self) -> None:
        if (self.concurrency is None) == (self.request_rate_per_s is None):
            raise ValueError("set concurrency or request_rate_per_s, one of the two")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a call brought.

    Attributes:
        seen: Every request of its windows; None when nothing was reported.
        stable: Whether it found the point stable.
        discarded: Why the point counts for nothing, or None.
    """

    seen: SeenRequests | None
    stable: bool
    discarded: str | None


def run_perf_analyzer(
    command: Sequence[str], *, url: str, model: str, texts: Sequence[str], point: LoadPoint
) -> Measured:
    """Measure one load point; each request carries one text, the texts in turn.

    Args:
        command: Beginning of the command line, from `install_perf_analyzer`.
        url: ``host:port`` of the gRPC service.
        model: The ensemble.
        texts: What is sent.
        point: The load.

    Raises:
        PeerFailed: It failed; requests that the server refuses make it fail too.
        WrongAnswer: See `read_profile_export`.
    """
    with tempfile.TemporaryDirectory(prefix="lasttoken-perf-analyzer.") as folder:
        data, export = Path(folder, "texts.json"), Path(folder, "profile.json")
        rows = [{"TEXT": {"content": [text], "shape": [1]}} for text in texts]
        data.write_text(json.dumps({"data": rows}), encoding="utf-8")
        arguments = [
            "-m", model, "-i", "grpc", "-u", url, "--async", "--input-data", str(data),
            "--measurement-mode", "count_windows",
            "--measurement-request-count", str(point.requests),
            "--stability-percentage", f"{100 * point.stability:g}",
            "--max-trials", str(point.max_windows),
            "--percentile", "95", "--profile-export-file", str(export),
            *load_arguments(point),
        ]  # fmt: skip
        try:
            done = subprocess.run(
                [*command, *arguments], capture_output=True, text=True, timeout=point.timeout_s,
                check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return Measured(
                seen=None, stable=False, discarded=f"not finished after {point.timeout_s:g} s"
            )
        words = done.stdout + done.stderr
        discarded = judge(words)
        if done.returncode and discarded is None:
            raise PeerFailed(
                f"perf_analyzer ended with {done.returncode}:\n{words[-_TAIL_CHARACTERS:]}"
            )
        seen = read_profile_export(export) if export.exists() else None
        if seen is None and discarded is None:
            raise PeerFailed(f"perf_analyzer reported nothing:\n{words[-_TAIL_CHARACTERS:]}")
    return Measured(seen=seen, stable=discarded is None, discarded=discarded)


def warm_up(url: str, model: str, texts: Sequence[str], point: LoadPoint) -> None:
    """Send the warm-up of an open-loop point, one request at a time, as perf_analyzer cannot.

    Args:
        url: ``host:port`` of the gRPC service.
        model: The ensemble.
        texts: What is sent.
        point: The load.
    """
    with EmbeddingClient(url, model) as client:
        for number in range(point.warmup_requests):
            client.embed_full(texts[number % len(texts)])


def load_arguments(point: LoadPoint) -> list[str]:
    """Arguments of the load alone."""
    if point.concurrency is not None:
        return ["--concurrency-range", str(point.concurrency),
                "--warmup-request-count", str(point.warmup_requests)]  # fmt: skip
    # Version 2.60 never ends when it is to warm up for a request rate.
    return ["--request-rate-range", f"{point.request_rate_per_s:g}",
            "--request-distribution", "poisson", "--max-threads", "16"]  # fmt: skip


def judge(words: str) -> str | None:
    """Reason to discard a point, from what perf_analyzer printed; None to keep it."""
    if re.search(r"not able to keep up", words, re.IGNORECASE):
        return "perf_analyzer was not able to keep up with the request rate"
    if re.search(r"failed to obtain stable measurement", words, re.IGNORECASE):
        return "perf_analyzer found no stable measurement"
    return None

"""Many concurrent clients with random cancels and deadlines: every answer right, nothing lost."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from lasttoken import AsyncEmbeddingClient, DeadlineExceeded, ServerOverloaded
from lasttoken.local import LocalTriton
from lasttoken_perf.corpus import long_tailed_texts
from lasttoken_perf.errors import WrongAnswer
from lasttoken_perf.kept_rows import rows_kept
from lasttoken_perf.results import make_result

_CANCELLED_SHARE = 0.1
_SHORT_DEADLINE_SHARE = 0.1
_BULK_SHARE = 0.3
_PATIENCE_S = 120.0
_TOLD = 3
"""Of what went wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SoakOptions:
    """How long and how hard.

    Attributes:
        requests: Requests in all.
        clients: Requests at a time.
        distinct_texts: Size of the pool that texts are drawn from.
        seed: Decides texts, cancels, deadlines and classes.
    """

    requests: int = 10_000
    clients: int = 64
    distinct_texts: int = 300
    seed: int = 11


@dataclass(slots=True)
class _Run:
    began_s: float = 0.0
    ended_s: float | None = None
    outcomes: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    rss_bytes: list[int] = field(default_factory=list)


def run_soak(
    server: LocalTriton,
    model: str,
    options: SoakOptions,
    *,
    say: Callable[[str], None],
    output: Path | None = None,
) -> dict[str, Any]:
    """Run the soak against a server and return what the JSON file holds.

    Args:
        server: The server.
        model: The ensemble.
        options: How long and how hard.
        say: Told the outcomes now and then.
        output: Where the outcomes are kept if a signal or an error ends the soak.

    Raises:
        WrongAnswer: A vector was not its text's, or a request ended in a way it may not.
    """
    texts = long_tailed_texts(
        options.distinct_texts, seed=options.seed, median_words=7, longest_words=60
    )
    run = _Run()

    def finished(ended_by: str) -> dict[str, Any] | None:
        if not run.outcomes:
            return None
        return _result(run, model, options, f"{ended_by} after {run.outcomes.total()} requests")

    with rows_kept(output, finished):
        asyncio.run(_soak(server, model, texts, options, say, run))
        if run.wrong or run.outcomes.total() != options.requests:
            raise WrongAnswer(
                f"{len(run.wrong)} of {options.requests} requests went wrong, "
                f"{run.outcomes.total()} ended; the first: {run.wrong[:_TOLD]}"
            )
    return _result(run, model, options)


def _result(
    run: _Run, model: str, options: SoakOptions, interrupted: str | None = None
) -> dict[str, Any]:
    ended_s = time.perf_counter() if run.ended_s is None else run.ended_s
    made = make_result(
        kind="soak",
        what="soak with random cancels and deadlines",
        rows=[],
        model={"triton_name": model},
        settings=asdict(options),
        interrupted=interrupted,
    )
    result = made | {
        "requests": options.requests,
        "clients": options.clients,
        "seconds": ended_s - run.began_s,
        "outcomes": dict(run.outcomes),
        "wrong_answers": len(run.wrong),
        "first_wrong": run.wrong[:_TOLD],
    }
    if not run.rss_bytes:  # ended before the first sample
        return result
    settled = run.rss_bytes[len(run.rss_bytes) // 5 :]
    fifth = max(1, len(settled) // 5)
    first, last = np.median(settled[:fifth]), np.median(settled[-fifth:])
    return result | {
        "server_rss_mb": {
            "after_a_fifth": float(first) / 1e6,
            "at_the_end": float(last) / 1e6,
            "peak": max(run.rss_bytes) / 1e6,
            "drift": float(last / first - 1),
        },
    }


async def _soak(
    server: LocalTriton,
    model: str,
    texts: list[str],
    options: SoakOptions,
    say: Callable[[str], None],
    run: _Run,
) -> None:
    async with AsyncEmbeddingClient(server.grpc_url, model) as client:
        # Each alone, so that the comparison below is also one of batch invariance.
        expected = {text: await client.embed(text) for text in texts}
        if len({vector.tobytes() for vector in expected.values()}) < 0.9 * len(texts):
            raise WrongAnswer("different texts share a vector: the check would prove nothing")
        numbers = iter(range(options.requests))
        sampler = asyncio.create_task(_sample_memory(server.pid, run))

        async def one_client() -> None:
            for number in numbers:
                randomness = random.Random(options.seed * 1_000_003 + number)
                text = randomness.choice(texts)
                run.outcomes[await _one(client, text, expected[text], randomness, run)] += 1
                if number % 1000 == 999:
                    say(f"{number + 1} requests: {dict(run.outcomes)}")

        run.began_s = time.perf_counter()
        await asyncio.gather(*(one_client() for _ in range(options.clients)))
        run.ended_s = time.perf_counter()
        sampler.cancel()
        # Nothing of what was given up may be left to haunt the server.
        for text in texts[:20]:
            if not np.array_equal(await client.embed(text), expected[text]):
                run.wrong.append(f"after the soak: {text[:60]!r}")


async def _one(
    client: AsyncEmbeddingClient,
    text: str,
    expected: NDArray[np.float32],
    randomness: random.Random,
    run: _Run,
) -> str:
    """One request; what became of it."""
    fate = randomness.random()
    cancelled = fate < _CANCELLED_SHARE
    hasty = not cancelled and fate < _CANCELLED_SHARE + _SHORT_DEADLINE_SHARE
    delay_s = randomness.uniform(0.0, 1.5)
    task = asyncio.create_task(
        client.embed(
            text,
            timeout_s=max(delay_s, 0.01) if hasty else _PATIENCE_S,
            priority="bulk" if randomness.random() < _BULK_SHARE else "interactive",
        )
    )
    try:
        if cancelled:
            await asyncio.wait([task], timeout=delay_s)
            task.cancel()
        vector = await task
    except asyncio.CancelledError:
        if (this := asyncio.current_task()) is not None and this.cancelling():
            task.cancel()
            raise  # the soak is ended, not this request alone
        return "cancelled"
    except DeadlineExceeded:
        if not hasty:
            run.wrong.append(f"deadline of {_PATIENCE_S} s exceeded")
        return "deadline exceeded"
    except ServerOverloaded:
        if not hasty:  # with its patience a client gets through in the end
            run.wrong.append("refused although the client had time left")
        return "overloaded"
    if not np.array_equal(vector, expected):
        run.wrong.append(f"wrong vector for {text[:60]!r}")
    return "answered"


async def _sample_memory(pid: int, run: _Run) -> None:
    """Note the resident memory of the server and its children twice a second."""
    while True:
        server = psutil.Process(pid)
        processes = [server, *server.children(recursive=True)]
        run.rss_bytes.append(sum(_resident_bytes(process) for process in processes))
        await asyncio.sleep(0.5)


def _resident_bytes(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0

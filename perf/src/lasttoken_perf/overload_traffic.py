"""The loads of `overload`: closed, open, and queries beside bulk; what became of each request.

Rates are of what was answered while the load was offered, which is when every caller is active;
latencies are of all requests, the last ones too.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lasttoken import AsyncEmbeddingClient, LasttokenError, RetryPolicy, ServerOverloaded
from lasttoken.options import Priority
from lasttoken_perf.latency import latency_fields
from lasttoken_perf.serving import Serving
from lasttoken_perf.workload import Workload

_CALL_TIMEOUT_S = 300.0
_NO_RETRY = RetryPolicy(max_attempts=1)


@dataclass(slots=True, repr=False)  # asyncio.run prints what it returns, and throws that away
class Outcomes:
    """What became of the requests of one stretch; times are those of `time.perf_counter`.

    Attributes:
        begin_s: When the load began.
        end_s: When the last request was sent at the latest.
        texts: Of the answered requests.
        vectors: ``[dim]`` float32 of each.
        tokens: Of each.
        answered_s: When each was answered.
        latency_ms: Of each.
        refused_ms: Time until each refusal.
        failed: Requests that failed otherwise.
    """

    begin_s: float = 0.0
    end_s: float = 0.0
    texts: list[str] = field(default_factory=list)
    vectors: list[NDArray[np.float32]] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    answered_s: list[float] = field(default_factory=list)
    latency_ms: list[float] = field(default_factory=list)
    refused_ms: list[float] = field(default_factory=list)
    failed: int = 0

    def begin(self, seconds: float) -> None:
        """Start the clock of a load of so many seconds."""
        self.begin_s = time.perf_counter()
        self.end_s = self.begin_s + seconds

    @property
    def last_s(self) -> float:
        """When the last request was answered, or the load ended."""
        return max([self.end_s, *self.answered_s])

    def fields(self) -> dict[str, Any]:
        """Return the row's fields of what the client saw."""
        seconds = self.end_s - self.begin_s
        within = [answered_s <= self.end_s for answered_s in self.answered_s]
        tokens = sum(n for n, is_within in zip(self.tokens, within, strict=True) if is_within)
        row: dict[str, Any] = {
            "seconds": seconds,
            "requests": len(self.latency_ms),
            "texts_per_s": sum(within) / seconds,
            "tokens_per_s": tokens / seconds,
            "refused": len(self.refused_ms),
            "failed": self.failed,
        }
        if self.latency_ms:
            row |= latency_fields(np.array(self.latency_ms))
        if self.refused_ms:
            row["refused_p99_ms"] = float(np.percentile(self.refused_ms, 99))
        return row


async def closed_loop(
    serving: Serving, workload: Workload, clients: int, seconds: float
) -> Outcomes:
    """``clients`` requests at a time."""
    outcomes = Outcomes()
    texts = endless(workload, seed=1)
    async with _client(serving) as client:
        outcomes.begin(seconds)
        await _keep_sending(client, texts, outcomes, clients)
    return outcomes


async def open_loop(
    serving: Serving, workload: Workload, rate: float, seconds: float, seed: int
) -> Outcomes:
    """``rate`` requests a second, at random times (Poisson), whatever becomes of the others."""
    outcomes = Outcomes()
    randomness = random.Random(seed)
    texts = endless(workload, seed=seed)
    async with _client(serving) as client:
        tasks = []
        outcomes.begin(seconds)
        at_s = outcomes.begin_s
        while (at_s := at_s + randomness.expovariate(rate)) < outcomes.end_s:
            await asyncio.sleep(max(0.0, at_s - time.perf_counter()))
            tasks.append(asyncio.create_task(send(client, next(texts), outcomes)))
        await asyncio.gather(*tasks)
    return outcomes


async def beside_bulk(
    serving: Serving, queries: Workload, bulk: Workload, clients: int, seconds: float,
    bulk_outcomes: Outcomes,
) -> Outcomes:  # fmt: skip
    """Interactive queries one at a time while ``clients`` bulk requests are always waiting.

    Args:
        serving: The server.
        queries: Of the interactive requests.
        bulk: Of the bulk ones.
        clients: Bulk requests at a time.
        seconds: Of the bulk load; the queries begin up to two seconds later.
        bulk_outcomes: Filled with what became of the bulk requests.

    Returns:
        What became of the interactive ones.
    """
    outcomes = Outcomes()
    texts, short = endless(bulk, seed=2), endless(queries, seed=3)
    delay_s = min(2.0, seconds / 4)
    async with _client(serving) as client:

        async def interactive() -> None:
            await asyncio.sleep(delay_s)
            outcomes.begin(seconds - delay_s)
            await _keep_sending(client, short, outcomes, 1)

        bulk_outcomes.begin(seconds)
        await asyncio.gather(
            _keep_sending(client, texts, bulk_outcomes, clients, "bulk"), interactive()
        )
    return outcomes


async def _keep_sending(
    client: AsyncEmbeddingClient, texts: Iterator[str], outcomes: Outcomes, callers: int,
    priority: Priority = "interactive",
) -> None:  # fmt: skip
    async def one() -> None:
        while time.perf_counter() < outcomes.end_s:
            await send(client, next(texts), outcomes, priority)

    await asyncio.gather(*(one() for _ in range(callers)))


async def send(
    client: AsyncEmbeddingClient,
    text: str,
    outcomes: Outcomes,
    priority: Priority = "interactive",
) -> None:
    """Send one text and note what became of it."""
    sent_s = time.perf_counter()
    try:
        answer = await client.embed_full(text, timeout_s=_CALL_TIMEOUT_S, priority=priority)
    except ServerOverloaded:
        outcomes.refused_ms.append(1000 * (time.perf_counter() - sent_s))
        await asyncio.sleep(0)
        return
    except LasttokenError:
        outcomes.failed += 1
        return
    answered_s = time.perf_counter()
    outcomes.answered_s.append(answered_s)
    outcomes.latency_ms.append(1000 * (answered_s - sent_s))
    outcomes.texts.append(text)
    outcomes.tokens.append(int(np.sum(answer.token_counts)))
    outcomes.vectors.append(answer.vectors)


def _client(serving: Serving) -> AsyncEmbeddingClient:
    return AsyncEmbeddingClient(serving.url, serving.triton_name, retry=_NO_RETRY)


def endless(workload: Workload, *, seed: int) -> Iterator[str]:
    """Yield texts in random order, round and round; first one that is known, to be compared."""
    randomness = random.Random(seed)
    first: Sequence[str] = list(workload.known)[:1]
    while True:
        order = [text for text in workload.texts if text not in first]
        randomness.shuffle(order)
        yield from [*first, *order]
        first = ()

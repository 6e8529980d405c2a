"""The served model under the loads that users give it: a long list, and many small requests."""

from __future__ import annotations

import asyncio
import time
import urllib.request

import numpy as np
from numpy.typing import NDArray

from lasttoken import AsyncEmbeddingClient, EmbeddingClient
from lasttoken_perf.peers.process import PeerRun

CALL_TIMEOUT_S = 600.0


def embed_list(url: str, model: str, texts: list[str]) -> PeerRun:
    """Embed all texts by one call of the client, as a corpus is embedded."""
    with EmbeddingClient(url, model) as client:
        client.embed(texts[:1], timeout_s=CALL_TIMEOUT_S)  # connects
        started_s = time.perf_counter()
        vectors = client.embed(texts, timeout_s=CALL_TIMEOUT_S, priority="bulk")
        return PeerRun(seconds=time.perf_counter() - started_s, vectors=vectors)


def embed_singly(url: str, model: str, texts: list[str]) -> PeerRun:
    """Embed one text a request, one after the other, by the blocking client."""
    vectors, latency_ms = [], []
    with EmbeddingClient(url, model) as client:
        client.embed(texts[0], timeout_s=CALL_TIMEOUT_S)  # connects
        started_s = time.perf_counter()
        for text in texts:
            sent_s = time.perf_counter()
            vectors.append(client.embed(text, timeout_s=CALL_TIMEOUT_S))
            latency_ms.append((time.perf_counter() - sent_s) * 1000)
        seconds = time.perf_counter() - started_s
    return PeerRun(seconds=seconds, vectors=np.stack(vectors), latency_ms=tuple(latency_ms))


def embed_one_by_one(url: str, model: str, texts: list[str], *, clients: int) -> PeerRun:
    """Embed one text a request, ``clients`` requests at a time (closed loop)."""
    return asyncio.run(_embed_one_by_one(url, model, texts, clients))


async def _embed_one_by_one(url: str, model: str, texts: list[str], clients: int) -> PeerRun:
    pending = iter(enumerate(texts))
    vectors: dict[int, NDArray[np.float32]] = {}
    latency_ms: dict[int, float] = {}

    async with AsyncEmbeddingClient(url, model) as client:

        async def one_client() -> None:
            for index, text in pending:
                sent_s = time.perf_counter()
                vectors[index] = await client.embed(text, timeout_s=CALL_TIMEOUT_S)
                latency_ms[index] = (time.perf_counter() - sent_s) * 1000

        await client.embed(texts[0], timeout_s=CALL_TIMEOUT_S)  # connects
        started_s = time.perf_counter()
        await asyncio.gather(*(one_client() for _ in range(clients)))
        seconds = time.perf_counter() - started_s
    order = range(len(texts))
    return PeerRun(
        seconds=seconds,
        vectors=np.stack([vectors[index] for index in order]),
        latency_ms=tuple(latency_ms[index] for index in order),
    )


def read_metrics(metrics_url: str | None, label: str = "") -> dict[str, float]:
    """Return Triton's metrics, summed over the labels of each name.

    Args:
        metrics_url: ``http://host:port/metrics``.
        label: Only series that have it, such as ``reason="expired"``.
    """
    assert metrics_url is not None, "the server was started without metrics"
    with urllib.request.urlopen(metrics_url, timeout=10) as answer:  # noqa: S310 - an address we were given
        text = answer.read().decode()
    totals: dict[str, float] = {}
    for line in text.splitlines():
        if line and not line.startswith("#") and label in line:
            name, value = line.rsplit(" ", 1)
            name = name.partition("{")[0]
            totals[name] = totals.get(name, 0.0) + float(value)
    return totals

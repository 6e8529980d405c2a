"""What the way to the server costs: vectors a second and processor time of each kind of client.

The server is a real Triton with an instant encoder (`instant_server`), and each contestant runs in
this process with a number of requests in flight, one text each, as callers of a service do. They
alternate; every vector is checked for its size and length. A contestant is a function of
(url, model, texts, in flight) that returns the vectors; `CONTESTANTS` takes more.
"""

from __future__ import annotations

import asyncio
import resource
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from numpy.typing import NDArray

from lasttoken import AsyncEmbeddingClient, EmbeddingClient
from lasttoken_perf.errors import WrongAnswer
from lasttoken_perf.instant_server import instant_server
from lasttoken_perf.kept_rows import after_rows, rows_kept
from lasttoken_perf.results import Row, make_result

Vectors = NDArray[np.float32]
Contestant = Callable[[str, str, list[str], int], Vectors]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientBenchOptions:
    """What is measured.

    Attributes:
        dimensions: Sizes of a vector.
        texts: Requests of each run.
        in_flight: Requests at a time.
        repeats: Runs of each contestant, alternating.
        cache_folder: Where packaged weights and Triton are kept.
    """

    dimensions: tuple[int, ...] = (384, 4096)
    texts: int = 2000
    in_flight: int = 64
    repeats: int = 3
    cache_folder: Path | None = None


def raw_threads(url: str, model: str, texts: list[str], in_flight: int) -> Vectors:
    """Tritonclient's blocking call in threads."""
    with triton.InferenceServerClient(url) as client, ThreadPoolExecutor(in_flight) as pool:
        answers = pool.map(lambda text: client.infer(model, [_text_input(triton, text)]), texts)
        return np.concatenate([answer.as_numpy("EMBEDDING") for answer in answers])


def raw_asyncio(url: str, model: str, texts: list[str], in_flight: int) -> Vectors:
    """Tritonclient's asyncio call."""

    async def run() -> Vectors:
        async with triton_aio.InferenceServerClient(url) as client:

            async def one(text: str) -> Vectors:
                answer = await client.infer(model, [_text_input(triton_aio, text)])
                vector: Vectors = answer.as_numpy("EMBEDDING")[0]
                return vector

            return await _closed_loop(one, texts, in_flight)

    return asyncio.run(run())


def embed_threads(url: str, model: str, texts: list[str], in_flight: int) -> Vectors:
    """`EmbeddingClient.embed` in threads."""
    with EmbeddingClient(url, model) as client, ThreadPoolExecutor(in_flight) as pool:
        return np.stack(list(pool.map(client.embed, texts)))


def embed_asyncio(url: str, model: str, texts: list[str], in_flight: int) -> Vectors:
    """`AsyncEmbeddingClient.embed`."""

    async def run() -> Vectors:
        async with AsyncEmbeddingClient(url, model) as client:
            return await _closed_loop(client.embed, texts, in_flight)

    return asyncio.run(run())


def embed_list(url: str, model: str, texts: list[str], in_flight: int) -> Vectors:
    """One `embed` of all texts, which forms requests of up to 64 and pipelines them itself."""
    with EmbeddingClient(url, model, max_in_flight=in_flight) as client:
        return np.asarray(client.embed(texts), dtype=np.float32)


CONTESTANTS: Mapping[str, Contestant] = {
    "tritonclient, threads": raw_threads,
    "tritonclient, asyncio": raw_asyncio,
    "embed, threads": embed_threads,
    "embed, asyncio": embed_asyncio,
    "embed, one list": embed_list,
}


def run_client_bench(
    options: ClientBenchOptions,
    *,
    say: Callable[[str], None],
    contestants: Mapping[str, Contestant] = CONTESTANTS,
    output: Path | None = None,
) -> dict[str, Any]:
    """Measure all contestants and return the result file's contents.

    Args:
        options: What is measured.
        say: Told what is being done.
        contestants: Who is measured.
        output: Gets the rows that were finished, should a signal or an error end the run.

    Raises:
        WrongAnswer: A contestant's vectors are not those of `embed` with a list.
    """
    texts = [f"request number {i} of the bench, a short text" for i in range(options.texts)]
    rows: list[Row] = []
    largest_error = 0.0

    def result(interrupted: str | None = None) -> dict[str, Any]:
        return make_result(
            kind="client",
            what="Vectors a second and processor time of clients, with an encoder that costs "
            "nothing.",
            rows=rows,
            settings={"texts": options.texts, "in_flight": options.in_flight},
            checks={"largest_difference": largest_error, "norms": "within 1e-4 of 1"},
            packages=("tritonclient", "grpcio", "lasttoken"),
            interrupted=interrupted,
        )

    for dimensions in options.dimensions:
        with (
            instant_server(dimensions, cache_folder=options.cache_folder) as served,
            rows_kept(output, after_rows(rows, result)),
        ):
            expected = embed_list(served.grpc_url, served.model, texts, 8)
            for repeat in range(1, options.repeats + 1):
                for subject, contestant in contestants.items():
                    say(f"{dimensions} dimensions, repeat {repeat}: {subject}")
                    arguments = (served.grpc_url, served.model, texts, options.in_flight)
                    contestant(*arguments[:2], texts[: options.in_flight], options.in_flight)
                    cpu_s, started_s = _cpu_s(), time.perf_counter()
                    vectors = contestant(*arguments)
                    seconds = time.perf_counter() - started_s
                    cpu_s = _cpu_s() - cpu_s
                    largest_error = max(largest_error, _check(subject, vectors, expected))
                    rows.append(
                        {
                            "subject": subject,
                            "variant": f"{dimensions} dimensions",
                            "load": "concurrency",
                            "concurrency": options.in_flight,
                            "repeat": repeat,
                            "seconds": seconds,
                            "requests": len(texts),
                            "texts_per_s": len(texts) / seconds,
                            "cpu_s_per_1000_texts": cpu_s * 1000 / len(texts),
                        }
                    )
    return result()


def table(result: Mapping[str, Any]) -> list[str]:
    """The summary as a Markdown table; ratios are medians over medians of the same size."""
    lines = [
        "| vectors | client | vectors/s (median) | min | max | / raw | CPU s / 1,000 |",
        "|---|---|---|---|---|---|---|",
    ]
    medians: dict[tuple[str, str], list[Row]] = {}
    for row in result["rows"]:
        medians.setdefault((row["variant"], row["subject"]), []).append(row)
    for (variant, subject), rows in medians.items():
        rates = [row["texts_per_s"] for row in rows]
        raw = subject.replace("embed", "tritonclient").replace("one list", "threads")
        base = [row["texts_per_s"] for row in medians.get((variant, raw), rows)]
        cpu = float(np.median([row["cpu_s_per_1000_texts"] for row in rows]))
        lines.append(
            f"| {variant} | {subject} | {np.median(rates):.0f} | {min(rates):.0f} "
            f"| {max(rates):.0f} | {np.median(rates) / np.median(base):.2f} | {cpu:.2f} |"
        )
    return lines


async def _closed_loop(one: Callable[[str], Any], texts: list[str], in_flight: int) -> Vectors:
    pending = iter(enumerate(texts))
    vectors: dict[int, Vectors] = {}

    async def caller() -> None:
        for index, text in pending:
            vectors[index] = await one(text)

    await asyncio.gather(*(caller() for _ in range(in_flight)))
    return np.stack([vectors[index] for index in range(len(texts))])


def _text_input(module: Any, text: str) -> Any:
    tensor = module.InferInput("TEXT", [1, 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[text.encode()]], dtype=np.object_))
    return tensor


def _check(subject: str, vectors: Vectors, expected: Vectors) -> float:
    if vectors.shape != expected.shape:
        raise WrongAnswer(f"{subject}: {vectors.shape} in place of {expected.shape}")
    off = float(np.abs(vectors - expected).max())
    norms = np.linalg.norm(vectors, axis=1)
    if off > 1e-6 or np.abs(norms - 1.0).max() > 1e-4:
        raise WrongAnswer(f"{subject}: vectors are off by {off}, or not of length 1")
    return off


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime

"""One contestant of the overhead benchmark, in a process of its own so that its CPU time is known.

``python -m lasttoken_perf.overhead_load WAY URL MODEL DIMENSIONS REQUESTS TEXTS IN_FLIGHT`` prints
one JSON object. Every vector that comes back is checked for its shape and norm.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Embed = Callable[[list[str]], Awaitable[npt.NDArray[np.float32]]]

WAYS = ("raw gRPC", "HTTP base64", "HTTP float", "openai base64", "openai float")
_TEXT = "The quick brown fox jumps over the lazy dog near the bank of the river."


async def measure(
    embed: Embed, *, dimensions: int, requests: int, texts: int, in_flight: int
) -> dict[str, float]:
    """Send requests, so many at a time, and check every answer.

    Returns:
        Wall and CPU seconds of this process, the warm-up left out.

    Raises:
        ValueError: A vector has another shape or is not of length 1.
    """
    payload = [f"{number} {_TEXT}" for number in range(texts)]

    async def one() -> None:
        vectors = await embed(payload)
        norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
        if vectors.shape != (texts, dimensions) or not np.allclose(norms, 1, atol=1e-3):
            raise ValueError(f"vectors of shape {vectors.shape} and norms {norms[:3]}")

    async def worker(share: int) -> None:
        for _ in range(share):
            await one()

    await asyncio.gather(*(one() for _ in range(in_flight)))  # connections, caches
    shares = [requests // in_flight] * in_flight
    started_s, cpu_s = time.perf_counter(), time.process_time()
    await asyncio.gather(*(worker(share) for share in shares))
    return {
        "seconds": time.perf_counter() - started_s,
        "client_cpu_s": time.process_time() - cpu_s,
        "texts": float(sum(shares) * texts),
    }


def _grpc(url: str, model: str) -> Embed:
    import tritonclient.grpc.aio as triton

    client = triton.InferenceServerClient(url)

    async def embed(texts: list[str]) -> npt.NDArray[np.float32]:
        tensor = triton.InferInput("TEXT", [len(texts), 1], "BYTES")
        tensor.set_data_from_numpy(np.array([[text.encode()] for text in texts], np.object_))
        result = await client.infer(model, [tensor])
        vectors: npt.NDArray[np.float32] = result.as_numpy("EMBEDDING")
        return vectors

    return embed


def _http(url: str, model: str, encoding: str) -> Embed:
    """HTTP/1.1 by hand on kept connections: what a client costs is not the question here."""
    import orjson

    host, port = url.removeprefix("http://").split(":")
    idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def embed(texts: list[str]) -> npt.NDArray[np.float32]:
        body = orjson.dumps({"model": model, "input": texts, "encoding_format": encoding})
        if idle:
            reader, writer = idle.pop()
        else:
            reader, writer = await asyncio.open_connection(host, int(port), limit=2**24)
        writer.write(
            b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body)
            + body
        )
        answer = orjson.loads(await _body(reader))
        idle.append((reader, writer))
        return _vectors([item["embedding"] for item in answer["data"]])

    return embed


async def _body(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise ValueError(head.decode())
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return await reader.readexactly(int(line.split(b":")[1]))
    pieces = []  # chunked
    while size := int(await reader.readline(), 16):
        pieces.append(await reader.readexactly(size))
        await reader.readline()
    await reader.readline()
    return b"".join(pieces)


def _vectors(rows: list[Any]) -> npt.NDArray[np.float32]:
    if isinstance(rows[0], str):
        return np.stack([np.frombuffer(base64.b64decode(row), "<f4") for row in rows])
    return np.array(rows, np.float32)


def _openai(url: str, model: str, encoding: str) -> Embed:
    import openai

    client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0)
    # Left to itself the package asks for base64 and makes lists of numbers of it.
    chosen: dict[str, Any] = {"encoding_format": "float"} if encoding == "float" else {}

    async def embed(texts: list[str]) -> npt.NDArray[np.float32]:
        answer = await client.embeddings.create(model=model, input=texts, **chosen)
        return _vectors([item.embedding for item in answer.data])

    return embed


def main() -> None:
    """Run one contestant."""
    way, url, model, *numbers = sys.argv[1:]
    dimensions, requests, texts, in_flight = map(int, numbers)
    kind, _, encoding = way.partition(" ")

    async def run() -> dict[str, float]:
        if kind == "raw":
            embed = _grpc(url, model)
        else:
            embed = (_http if kind == "HTTP" else _openai)(url, model, encoding)
        return await measure(
            embed, dimensions=dimensions, requests=requests, texts=texts, in_flight=in_flight
        )

    sys.stdout.write(json.dumps(asyncio.run(run())))


if __name__ == "__main__":
    main()

"""Sends requests by both ways in, closed or open loop, and compares every answer bit for bit."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from lasttoken import AsyncEmbeddingClient, RetryPolicy
from lasttoken_perf.steady.mix import Request, Way
from lasttoken_perf.steady.outcome import RIGHT, WRONG, Outcome

_CALL_TIMEOUT_S = 120.0

Ask = Callable[[Request], Awaitable[NDArray[np.float32]]]
"""Returns a request's vector, ``[dim]``; raises when there is none."""


class Traffic:
    """Both clients, and what has become of their requests; one attempt a request.

    Args:
        grpc_url: ``host:port`` of the server.
        gateway_url: ``http://host:port`` of the gateway.
        model: The ensemble.
        expected: Vector of each text.
    """

    def __init__(
        self,
        grpc_url: str,
        gateway_url: str,
        model: str,
        expected: Mapping[str, NDArray[np.float32]],
    ) -> None:
        self._urls = (grpc_url, gateway_url)
        self._model = model
        self._expected = expected
        self._ask: Mapping[Way, Ask] = {}
        self.outcomes: list[Outcome] = []

    async def __aenter__(self) -> Self:
        grpc_url, gateway_url = self._urls
        self._stack = AsyncExitStack()
        client = await self._stack.enter_async_context(
            # A second try would hide that the first one failed.
            AsyncEmbeddingClient(grpc_url, self._model, retry=RetryPolicy(max_attempts=1))
        )

        async def by_grpc(request: Request) -> NDArray[np.float32]:
            return await client.embed(
                request.text, timeout_s=_CALL_TIMEOUT_S, priority=request.kind.priority
            )

        by_gateway = await _openai_asks(self._stack, gateway_url, self._model)
        self._ask = {"gRPC": by_grpc, "gateway": by_gateway}
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._stack.aclose()

    async def closed(self, requests: Iterator[Request], *, clients: int, seconds: float) -> None:
        """Keep ``clients`` requests in flight for so many seconds, and wait for the last ones."""
        begin_s = time.perf_counter()

        async def one() -> None:
            while (now_s := time.perf_counter() - begin_s) < seconds:
                await self._send(next(requests), now_s, begin_s)

        await asyncio.gather(*(one() for _ in range(clients)))

    async def open(self, requests: Iterator[Request], due_s: Sequence[float]) -> None:
        """Send a request at each of the times, however many are in flight; wait for the last."""
        begin_s = time.perf_counter()
        tasks = set()
        for at_s in due_s:
            await asyncio.sleep(max(0.0, begin_s + at_s - time.perf_counter()))
            task = asyncio.create_task(self._send(next(requests), at_s, begin_s))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)

    async def once(self, request: Request) -> None:
        """Send a request now and wait for it."""
        await self._send(request, 0.0, time.perf_counter())

    async def _send(self, request: Request, due_s: float, begin_s: float) -> None:
        late_s = time.perf_counter() - begin_s - due_s
        try:
            vector = await self._ask[request.way](request)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is an error of the soak
            result = type(error).__name__
        else:
            result = RIGHT if np.array_equal(vector, self._expected[request.text]) else WRONG
        latency_s = time.perf_counter() - begin_s - due_s
        self.outcomes.append(Outcome(request=request, due_s=due_s, late_s=late_s,
                                     latency_s=latency_s, result=result))  # fmt: skip


async def _openai_asks(stack: AsyncExitStack, url: str, model: str) -> Ask:
    """Ask as OpenAI's own package does."""
    import openai  # an extra, which `gateway_process` has looked for

    client: Any = await stack.enter_async_context(
        openai.AsyncOpenAI(
            base_url=f"{url}/v1", api_key="unused", max_retries=0, timeout=_CALL_TIMEOUT_S
        )
    )

    async def ask(request: Request) -> NDArray[np.float32]:
        answer = await client.embeddings.create(
            model=model,
            input=request.text,
            encoding_format="base64",
            extra_body={"priority": request.kind.priority},
        )
        return np.frombuffer(base64.b64decode(answer.data[0].embedding), "<f4")

    return ask

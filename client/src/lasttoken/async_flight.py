"""The requests of one call that are with the server, on asyncio."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from lasttoken.core import ClientCore
from lasttoken.plan import EmbedPlan


async def answer_alone(client: ClientCore, connect: Callable[[int], Any], plan: EmbedPlan) -> None:
    """Send the only request of a plan and wait for its answer, without a task of its own.

    Cancelling the caller's task cancels the gRPC call that it waits for; the server is told.
    """
    dispatch = plan.dispatch
    while not dispatch.finished:
        now = time.monotonic()
        taken = dispatch.take(now)
        if not taken:
            await asyncio.sleep(dispatch.wait_s(now) or 0.0)  # until the next attempt is due
            continue
        (request,) = taken
        server = client._rotation.take(now)
        answer, error = await _ask(client, connect(server), client._infer_arguments(plan, request))
        client._judge(plan, request, server, answer, error)


async def _ask(
    client: ClientCore, connection: Any, arguments: dict[str, Any]
) -> tuple[Any, Exception | None]:
    from tritonclient.utils import InferenceServerException  # loaded by now

    try:
        return await unless_closed(client, partial(connection.infer, **arguments)), None
    except InferenceServerException as error:
        return None, error


async def unless_closed(client: ClientCore, ask: Callable[[], Awaitable[Any]]) -> Any:
    """Ask and wait, and tell the closing of the client from the end of the caller's task."""
    from grpc.aio import UsageError  # loaded by now

    cancellations = _cancellations()
    try:
        return await ask()
    except asyncio.CancelledError:
        if _cancellations() == cancellations:  # close() ended the channel
            client._check_still_open()
        raise
    except UsageError:  # gRPC's word for a channel that was closed before the call began
        client._check_still_open()
        raise


def _cancellations() -> int:
    """How often the running task was asked to end; 0 before Python 3.11, which does not tell."""
    task: Any = asyncio.current_task()
    return task.cancelling() if hasattr(task, "cancelling") else 0


class Flight:
    """The requests of one call that are with the server."""

    def __init__(self, client: ClientCore, connect: Callable[[int], Any], plan: EmbedPlan) -> None:
        self._client = client
        self._connect = connect
        self._plan = plan
        self._in_flight: dict[asyncio.Task[Any], tuple[int, int]] = {}  # (request, server)

    def send(self) -> None:
        """Send what is due."""
        now = time.monotonic()
        for request in self._plan.dispatch.take(now):
            server = self._client._rotation.take(now)
            connection = self._connect(server)
            arguments = self._client._infer_arguments(self._plan, request)
            ask = partial(connection.infer, **arguments)
            attempt = asyncio.create_task(unless_closed(self._client, ask))
            self._in_flight[attempt] = (request, server)

    async def wait(self, other: asyncio.Task[Any] | None = None) -> None:
        """Wait for answers and judge them, or until a retry is due or something else is done."""
        wait_s = self._plan.dispatch.wait_s(time.monotonic())
        awaited = {*self._in_flight, *([] if other is None else [other])}
        if not awaited:
            await asyncio.sleep(0 if wait_s is None else wait_s)
            return
        done, _ = await asyncio.wait(awaited, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
        for attempt in done - {other}:
            request, server = self._in_flight.pop(attempt)
            error = attempt.exception()
            answer = attempt.result() if error is None else None
            self._client._judge(self._plan, request, server, answer, error)

    async def cancel(self) -> None:
        """Give up what is in flight; the server is told."""
        for attempt in self._in_flight:
            attempt.cancel()
        await asyncio.gather(*self._in_flight, return_exceptions=True)
        self._in_flight.clear()

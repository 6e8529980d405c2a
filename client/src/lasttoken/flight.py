"""The requests of one call that are with the server."""

from __future__ import annotations

import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any

from lasttoken.core import ClientCore
from lasttoken.interrupts import interrupts_held
from lasttoken.plan import EmbedPlan


def answer_alone(client: ClientCore, connect: Callable[[int], Any], plan: EmbedPlan) -> None:
    """Send the only request of a plan and wait for its answer, in the caller's thread.

    gRPC's futures pass each answer through a thread of their own; its blocking call does not.
    Ctrl-C and the end of the channel end the wait, and the server is told.
    """
    dispatch = plan.dispatch
    while not dispatch.finished:
        now = time.monotonic()
        taken = dispatch.take(now)
        if not taken:
            time.sleep(dispatch.wait_s(now) or 0.0)  # until the next attempt is due
            continue
        (request,) = taken
        server = client._rotation.take(now)
        answer, error = _ask(client, connect(server), client._infer_arguments(plan, request))
        client._judge(plan, request, server, answer, error)


def _ask(
    client: ClientCore, connection: Any, arguments: dict[str, Any]
) -> tuple[Any, Exception | None]:
    from tritonclient.utils import InferenceServerException  # loaded by now

    try:
        return connection.infer(**arguments), None
    except InferenceServerException as error:
        return None, error
    except ValueError as error:  # gRPC's word for a channel that was closed meanwhile
        client._check_still_open()
        raise error


class Flight:
    """The requests of one call that are with the server."""

    def __init__(self, client: ClientCore, connect: Callable[[int], Any], plan: EmbedPlan) -> None:
        self._client = client
        self._connect = connect
        self._plan = plan
        self._answers: SimpleQueue[tuple[int, Any, Exception | None]] = SimpleQueue()
        self._in_flight: dict[int, tuple[Any, int]] = {}  # (attempt, server) of each request

    def send(self) -> None:
        """Send what is due."""
        now = time.monotonic()
        taken = self._plan.dispatch.take(now)
        if not taken:
            return
        with interrupts_held():
            for request in taken:
                server = self._client._rotation.take(now)
                self._in_flight[request] = (self._begin(request, server), server)

    def wait(self) -> None:
        """Wait for one answer and judge it, or until a retry is due or the time is over."""
        wait_s = self._plan.dispatch.wait_s(time.monotonic())
        try:
            request, answer, error = self._answers.get(timeout=wait_s)
        except Empty:  # `send` knows what to do
            return
        _, server = self._in_flight.pop(request)
        self._client._judge(self._plan, request, server, answer, error)

    def cancel(self) -> None:
        """Give up what is in flight; the server is told."""
        for attempt, _ in self._in_flight.values():
            attempt.cancel()
        self._in_flight.clear()

    def _begin(self, request: int, server: int) -> Any:
        answers = self._answers

        def on_answer(result: Any, error: Exception | None) -> None:
            answers.put((request, result, error))

        connection = self._connect(server)
        arguments = self._client._infer_arguments(self._plan, request)
        # tritonclient keeps the call it has just begun in an attribute of the connection, where
        # another thread's call would take its place before the callback is attached.
        with self._client._lock:
            try:
                return connection.async_infer(callback=on_answer, **arguments)
            except ValueError as error:  # gRPC's word for a channel that was closed meanwhile
                self._client._check_still_open()
                raise error

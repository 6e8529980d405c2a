"""One request and its answer: what is known of it while it is worked on."""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from lasttoken.gateway.refusals import TOO_LARGE, TOO_SLOW, Refusal

Outcome = TypeVar("Outcome")

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class CallerGone(Exception):
    """The caller closed the connection before the answer; nobody is left to tell."""


@dataclass(slots=True, kw_only=True)
class Exchange:
    """What logs and metrics are told of one request.

    Attributes:
        request_id: The caller's `x-request-id`, or a new one.
        started: On `time.perf_counter`, in seconds.
        route: Path of the route, `"other"` for what is none.
        key: Name of the API key, None without one.
        model: Model that served it.
        texts: Texts of the request.
        tokens: Tokens computed for them.
        upstream_s: Time spent waiting for Triton, in seconds.
        error: Code of the error that it was answered with.
        cause: Name of the error behind it.
        headers: Headers for the answer.
    """

    request_id: str
    started: float = field(default_factory=time.perf_counter)
    route: str = "other"
    key: str | None = None
    model: str | None = None
    texts: int | None = None
    tokens: int | None = None
    upstream_s: float | None = None
    error: str | None = None
    cause: str | None = None
    headers: dict[str, str] = field(default_factory=dict)


def new_exchange(scope: Scope) -> Exchange:
    """Begin an exchange for an ASGI scope, and leave it there."""
    given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
    text = given.decode("latin-1")
    exchange = Exchange(request_id=text if _REQUEST_ID.fullmatch(text) else secrets.token_hex(16))
    scope["lasttoken.exchange"] = exchange
    return exchange


def exchange_of(request: Request) -> Exchange:
    """The exchange that a request belongs to."""
    exchange: Exchange = request.scope["lasttoken.exchange"]
    return exchange


async def read_body(request: Request, *, limit: int, timeout_s: float) -> bytes:
    """Read a request's body.

    Raises:
        Refusal: 413, before more than `limit` bytes have been taken in; 408 when it has not all
            come in `timeout_s` seconds.
        CallerGone: The connection ended in its middle.
    """
    try:
        return await asyncio.wait_for(_whole_body(request, limit), timeout_s)
    except asyncio.TimeoutError:
        raise Refusal(
            TOO_SLOW, f"the request's body did not come within {timeout_s:g} s; send it again"
        ) from None


async def _whole_body(request: Request, limit: int) -> bytes:
    too_large = Refusal(
        TOO_LARGE, f"the request has more than {limit} bytes; send fewer texts in one request"
    )
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise too_large
    pieces = []
    size = 0
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise CallerGone
        piece = message.get("body", b"")
        size += len(piece)
        if size > limit:
            raise too_large
        pieces.append(piece)
        if not message.get("more_body", False):
            return b"".join(pieces)


async def while_connected(request: Request, work: Coroutine[Any, Any, Outcome]) -> Outcome:
    """Do some work, and cancel it as soon as the caller has gone.

    Args:
        request: Its body must have been read: the next thing to come is the end of the connection.
        work: What the caller waits for.

    Raises:
        CallerGone: The connection ended first; the work has been cancelled and has ended.
    """
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(_until_gone(request.receive))
    try:
        await asyncio.wait((task, watch), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise CallerGone
    finally:
        for future in (task, watch):
            future.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class JsonPieces(Response):
    """A JSON answer made while it is sent.

    One piece goes out as it is. With several the event loop has its turn between them.
    """

    def __init__(self, pieces: Iterator[bytes], *, headers: dict[str, str] | None = None) -> None:
        """Take the pieces; `headers` go with the answer."""
        super().__init__(status_code=200, headers=headers, media_type="application/json")
        self._pieces = pieces
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Send the pieces."""
        first = next(self._pieces)
        second = next(self._pieces, None)
        headers = list(self.raw_headers)
        if second is None:
            headers.append((b"content-length", str(len(first)).encode()))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        piece, following = first, second
        while following is not None:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            await asyncio.sleep(0)
            piece, following = following, next(self._pieces, None)
        await send({"type": "http.response.body", "body": piece, "more_body": False})


class NoAnswer(Response):
    """For a caller who has gone."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send nothing."""

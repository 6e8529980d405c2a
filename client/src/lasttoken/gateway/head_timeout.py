"""Connections whose request does not come: uvicorn waits for a request's head for ever."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


def with_head_timeout(seconds: float) -> type[HttpToolsProtocol]:
    """Return uvicorn's protocol, closing connections whose request's head is not there in time.

    The clock starts with the connection, and with the first byte of each request after the first;
    between requests uvicorn's own timeout for idle connections holds.
    """

    class HeadTimeout(HttpToolsProtocol):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self._head_timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._start()

        def on_message_begin(self) -> None:
            super().on_message_begin()
            if self._head_timer is None:
                self._start()

        def on_headers_complete(self) -> None:
            self._cancel()
            super().on_headers_complete()

        def connection_lost(self, exc: Exception | None) -> None:
            self._cancel()
            super().connection_lost(exc)

        def _start(self) -> None:
            self._head_timer = self.loop.call_later(seconds, self._late)

        def _cancel(self) -> None:
            if self._head_timer is not None:
                self._head_timer.cancel()
                self._head_timer = None

        def _late(self) -> None:
            self._head_timer = None
            if not self.transport.is_closing():
                self.transport.close()

    return HeadTimeout

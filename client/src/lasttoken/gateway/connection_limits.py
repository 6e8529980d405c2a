"""Limits of a connection that uvicorn has not: how long it may stand still, how long a head may be.

They hold before anybody has shown a key.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from lasttoken.gateway.json_log import log_event

MAX_HEAD_BYTES = 64 * 1024
"""Largest head, and largest headers behind a body: what uvicorn allows with its other parser.
Somewhat more passes where it ends with what is read at a time. Each further part of a header costs
a copy of what is there of it, so one without an end would keep the event loop busy."""


def with_limits(seconds: float) -> type[HttpToolsProtocol]:
    """Return uvicorn's protocol, ending connections with a head too large or that stand still.

    A request's head has to be there in that time. The clock starts with the connection, and with
    the first byte of each request after the first; between requests uvicorn's own timeout for idle
    connections holds. What is written of an answer has to be taken in that time, piece by piece:
    the rest of it is held for as long as its caller does not read.
    """

    class Limited(HttpToolsProtocol):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self._head_timer: asyncio.TimerHandle | None = None
            self._write_timer: asyncio.TimerHandle | None = None
            self._head_bytes = 0

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._start()

        def data_received(self, data: bytes) -> None:
            self._head_bytes += len(data)
            super().data_received(data)
            if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
                log_event("head_too_large", level="warning", bytes=self._head_bytes)
                self.send_400_response(f"A head has at most {MAX_HEAD_BYTES} bytes.")

        def on_message_begin(self) -> None:
            super().on_message_begin()
            if self._head_timer is None:
                self._start()

        def on_headers_complete(self) -> None:
            self._cancel()
            self._head_bytes = 0
            super().on_headers_complete()

        def on_body(self, body: bytes) -> None:
            self._head_bytes = 0  # what comes behind a body in chunks counts as a head
            super().on_body(body)

        def on_message_complete(self) -> None:
            self._head_bytes = 0
            super().on_message_complete()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._write_timer = self.loop.call_later(seconds, self._not_read)

        def resume_writing(self) -> None:
            self._cancel_write()
            super().resume_writing()

        def connection_lost(self, exc: Exception | None) -> None:
            self._cancel()
            self._cancel_write()
            super().connection_lost(exc)

        def _start(self) -> None:
            self._head_timer = self.loop.call_later(seconds, self._late)

        def _cancel(self) -> None:
            if self._head_timer is not None:
                self._head_timer.cancel()
                self._head_timer = None

        def _cancel_write(self) -> None:
            if self._write_timer is not None:
                self._write_timer.cancel()
                self._write_timer = None

        def _late(self) -> None:
            self._head_timer = None
            if not self.transport.is_closing():
                self.transport.close()

        def _not_read(self) -> None:
            self._write_timer = None
            log_event("answer_not_read", level="warning", seconds=seconds)
            self.transport.abort()  # closing would wait for what nobody takes

    return Limited

"""Reads ahead from an iterable, async or not, while an event loop does other work."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterable, Iterable
from typing import Any

from lasttoken.core import MAX_BLOCK_BYTES
from lasttoken.encoding import utf8


class AsyncReader:
    """A bounded buffer of texts that a task fills; taken a block at a time.

    A block is ready as soon as there is a text: a slow source's texts do not wait for each other.
    """

    def __init__(
        self, texts: Iterable[str] | AsyncIterable[str] | Iterable[bytes], *, most: int
    ) -> None:
        """Begin to read, at most `most` texts (or about `MAX_BLOCK_BYTES`) ahead of `take`."""
        self._most = most
        self._texts: list[bytes] = []
        self._size_bytes = 0
        self._read = 0
        self._room = asyncio.Event()
        self._room.set()
        self._arrived = asyncio.Event()
        self._task = asyncio.create_task(self._fill(texts))
        self._arrival: asyncio.Task[Any] | None = None

    @property
    def ended(self) -> bool:
        """Whether everything was read and taken, or reading failed."""
        return self._task.done() and (not self._texts or self._task.exception() is not None)

    @property
    def has_block(self) -> bool:
        """Whether there is something to take."""
        return bool(self._texts)

    def take(self) -> tuple[bytes, ...]:
        """What has been read since the last time, in UTF-8."""
        block, self._texts, self._size_bytes = tuple(self._texts), [], 0
        self._arrived.clear()
        self._room.set()
        return block

    def arrival(self) -> asyncio.Task[Any]:
        """Done when there is something to take, or nothing more will come."""
        if self._arrival is None or self._arrival.done():
            self._arrival = asyncio.create_task(self._arrived.wait())
        return self._arrival

    def check(self) -> None:
        """Raise what the iterable raised, if it did."""
        if self._task.done():
            self._task.result()

    async def close(self) -> None:
        """Stop reading."""
        for task in (self._task, self._arrival):
            if task is not None and not task.done():
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task

    async def _fill(self, texts: Any) -> None:
        try:
            if isinstance(texts, AsyncIterable):
                async for text in texts:
                    await self._put(text)
            else:
                for text in texts:
                    await self._put(text)
        finally:
            self._arrived.set()

    async def _put(self, text: object) -> None:
        if not self._room.is_set():
            await self._room.wait()
        row = text if isinstance(text, bytes) else utf8(text, f"texts[{self._read}]")
        self._read += 1
        self._texts.append(row)
        self._size_bytes += len(row)
        self._arrived.set()
        if len(self._texts) >= self._most or self._size_bytes >= MAX_BLOCK_BYTES:
            self._room.clear()

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from lasttoken import AsyncEmbeddingClient, EmbeddingClient
from unit.client.fake_triton import MODEL, FakeTriton


class Blocking:
    """The async client behind the sync one's calls, so that one test holds both."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._runner = asyncio.Runner()
        self._client = AsyncEmbeddingClient(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._client, name)
        if name in ("embed_iter", "embed_blocks"):
            return lambda *args, **kwargs: self._drain(value(*args, **kwargs))
        if not asyncio.iscoroutinefunction(value):
            return value
        return lambda *args, **kwargs: self._runner.run(
            value(*args, **kwargs),
            context=contextvars.copy_context(),  # the caller's, and not that of the first run
        )

    def _drain(self, items: AsyncIterator[Any]) -> Iterator[Any]:
        try:
            while True:
                try:
                    item = self._runner.run(anext(items))
                except StopAsyncIteration:
                    return
                yield item
        finally:
            self._runner.run(items.aclose())

    def __enter__(self):
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._runner.run(self._client.close())
        self._runner.close()


@pytest.fixture
def fake() -> Iterator[FakeTriton]:
    with FakeTriton().serve() as server:
        yield server


@pytest.fixture(params=["sync", "async"])
def make_client(request: pytest.FixtureRequest, fake: FakeTriton) -> Any:
    """Makes a client of either kind for the fake server."""
    kind = EmbeddingClient if request.param == "sync" else Blocking

    def make(url: str | None = None, model: str = MODEL, **options: Any) -> Any:
        return kind(url or fake.url, model, **options)

    return make

from __future__ import annotations

import asyncio
from collections.abc import Iterator
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
        if not asyncio.iscoroutinefunction(value):
            return value
        return lambda *args, **kwargs: self._runner.run(value(*args, **kwargs))

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

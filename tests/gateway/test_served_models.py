"""The list of models and their connections, with a Triton that says what it is told to."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace

import pytest

from lasttoken.embeddings import ModelInfo
from lasttoken.gateway import GatewaySettings, served_models
from lasttoken.gateway.served_models import ModelDirectory


class Step:
    """A connection to one step of an ensemble."""

    def __init__(self, model: str, **connection: object) -> None:
        self.model = model
        self.closed = False

    async def close(self) -> None:
        self.closed = True


@pytest.fixture
def directory(monkeypatch):
    monkeypatch.setattr(served_models, "TokenizerStep", Step)
    monkeypatch.setattr(served_models, "EncoderStep", Step)
    monkeypatch.setattr(served_models, "LIST_AGE_S", 0.0)

    def make(timeout_s: float) -> tuple[ModelDirectory, list[str]]:
        """A directory, and the names that its server lists."""
        names = ["a", "b"]

        async def list_models(*, timeout_s: float) -> list[ModelInfo]:
            return [
                ModelInfo(name=name, version="1", ready=True, dimensions=4, card={})
                for name in names
            ]

        made = ModelDirectory(GatewaySettings(timeout_s=timeout_s))

        async def close() -> None:
            pass

        monkeypatch.setattr(made, "_client", SimpleNamespace(list_models=list_models, close=close))
        return made, names

    return make


def test_requests_in_flight_keep_the_connections_of_a_model_that_is_gone(directory):
    async def run() -> None:
        models, names = directory(timeout_s=0.3)
        model, _ = await models.find("a")
        names.remove("a")
        await models.all()
        assert not model.tokenizer.closed  # a request of ours may be between the two steps
        assert not model.encoder.closed
        deadline = time.monotonic() + 10
        while not (model.tokenizer.closed and model.encoder.closed):  # after 0.3 s, or a bit more
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)

    asyncio.run(run())


def test_closing_closes_the_connections_of_models_that_are_gone_too(directory):
    async def run() -> None:
        models, names = directory(timeout_s=60.0)
        found = [(await models.find(name))[0] for name in names]
        names.remove("a")
        await models.all()
        await asyncio.wait_for(models.close(), 5)
        assert all(model.tokenizer.closed and model.encoder.closed for model in found)

    asyncio.run(run())

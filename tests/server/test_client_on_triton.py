"""The clients against a real Triton: what the wire fake cannot vouch for."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from lasttoken import (
    AsyncEmbeddingClient,
    DeadlineExceeded,
    EmbeddingClient,
    InvalidInput,
    ModelNotFound,
    ProtocolMismatch,
    RetryPolicy,
    ServerError,
    ServerOverloaded,
)
from lasttoken.local import LocalTriton
from server.toy_repository import (
    DIMENSIONS,
    MAX_TOKENS,
    MODEL,
    toy_vector,
    toy_vectors,
    write_toy_repository,
)

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def url(tmp_path_factory) -> Iterator[str]:
    repository = write_toy_repository(tmp_path_factory.mktemp("toy") / "repository")
    with LocalTriton(repository) as server:
        yield server.grpc_url


@pytest.fixture
def client(url) -> Iterator[EmbeddingClient]:
    with EmbeddingClient(url, MODEL) as made:
        yield made


def many_texts(count: int) -> list[str]:
    draw = random.Random(3)
    words = ["", "a", "漢字", "\U0001f600", "\0", "e\u0301", "word " * 40, "\n"]
    return [f"{i} " + "".join(draw.choices(words, k=draw.randrange(6))) for i in range(count)]


def test_rows_come_back_in_order_byte_for_byte(client):
    texts = many_texts(1500)
    assert np.array_equal(client.embed(texts), toy_vectors(texts))


def test_one_text_an_empty_text_and_an_empty_list(client):
    assert np.array_equal(client.embed("one"), toy_vector("one"))
    assert np.array_equal(client.embed([""]), toy_vectors([""]))
    assert client.embed([]).shape == (0, DIMENSIONS)


def test_optional_inputs_arrive_for_every_row(client):
    texts = many_texts(50)
    expected = toy_vectors([f"query: {text}" for text in texts])
    assert np.array_equal(client.embed(texts, prompt_name="query"), expected)
    expected = toy_vectors([f"find: {text}" for text in texts])
    assert np.array_equal(client.embed(texts, instruction="find"), expected)


def test_token_counts_and_truncation(client):
    full = client.embed_full(["abc", "é", "x" * (MAX_TOKENS + 1)])
    assert full.token_counts.tolist() == [3, 2, MAX_TOKENS]
    assert full.truncated.tolist() == [False, False, True]


def test_tritons_words_become_typed_errors(url, client, monkeypatch):
    with pytest.raises(InvalidInput, match="bad input: as asked"):
        client.embed("BAD INPUT")
    with pytest.raises(ServerError, match="engine failed: as asked"):
        client.embed("INTERNAL")
    with EmbeddingClient(url, "nope") as other:
        with pytest.raises(ModelNotFound, match="nope"):
            other.embed("a")
        with pytest.raises(ModelNotFound, match="nope"):
            other.embed([])
    with EmbeddingClient(url, f"{MODEL}_tokenizer") as other, pytest.raises(ProtocolMismatch):
        other.embed("a")
    wide = EmbeddingClient(url, MODEL, max_texts_per_request=257)
    with wide:
        assert len(wide.embed(["a"] * 257)) == 257  # in two requests
        monkeypatch.setattr("lasttoken.core.MAX_TEXTS_PER_REQUEST", 257)
        with pytest.raises(InvalidInput, match="256"):
            wide.embed(["a"] * 257)


def test_overload_is_known_through_the_ensemble_and_passes(url):
    with (
        EmbeddingClient(url, MODEL, retry=RetryPolicy(max_attempts=1)) as client,
        pytest.raises(ServerOverloaded),
    ):
        client.embed("OVERLOADED TWICE")  # the first refusal
    with EmbeddingClient(url, MODEL) as client:  # the second, and then the answer
        vector = client.embed("OVERLOADED TWICE")
    assert np.array_equal(vector, toy_vector("OVERLOADED TWICE"))


def test_a_deadline_holds_while_the_server_works(client):
    begin = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        client.embed("SLEEP 10.0", timeout_s=0.3)
    assert time.monotonic() - begin < 8
    assert np.array_equal(client.embed("next"), toy_vector("next"))


def test_the_server_lists_ensembles_and_not_their_steps(client):
    (model,) = client.list_models()
    assert model == client.model_info()
    assert (model.name, model.dimensions, model.ready) == (MODEL, DIMENSIONS, True)


def test_threads_share_a_client(client):
    wrong = []

    def work(name: int) -> None:
        for turn in range(10):
            texts = [f"{name} {turn} {i}" for i in range(70)]
            if not np.array_equal(client.embed(texts), toy_vectors(texts)):
                wrong.append((name, turn))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_the_async_client_gives_the_same(url, client):
    texts = many_texts(300)

    async def run() -> None:
        async with AsyncEmbeddingClient(url, MODEL) as made:
            whole, *single = await asyncio.gather(
                made.embed(texts), *(made.embed(text) for text in texts)
            )
            assert np.array_equal(whole, client.embed(texts))
            assert np.array_equal(np.stack(single), whole)
            with pytest.raises(DeadlineExceeded):
                await made.embed("SLEEP 1.0", timeout_s=0.2)
            assert await made.list_models() == client.list_models()

    asyncio.run(run())

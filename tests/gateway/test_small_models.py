"""Prompts, sizes and special tokens, on models that have them."""

from __future__ import annotations

import numpy as np
import pytest

from gateway.small_models import BOS, DIMENSIONS, EOS
from lasttoken import EmbeddingClient
from unit.tokenizer.small import byte_ids

pytestmark = pytest.mark.server

TEXTS = ["one text", "another one"]


@pytest.fixture(scope="module")
def client(small_server):
    with EmbeddingClient(small_server.grpc_url, "short") as made:
        yield made


def embed(http, expected_status=200, **payload):
    answer = http.post("/v1/embeddings", json={"model": "short", "input": TEXTS, **payload})
    assert answer.status_code == expected_status, answer.text
    if expected_status != 200:
        return answer.json()["error"]
    return np.array([item["embedding"] for item in answer.json()["data"]], np.float32)


def test_each_way_to_name_a_prompt(small_http, client):
    queries = client.embed(TEXTS, prompt_name="query")
    for ways in (
        {"prompt_name": "query"},
        {"input_type": "query"},
        {"input_type": "search_query"},
        {"model": "short:query"},
        {"model": "short:search_query"},
    ):
        assert embed(small_http, **ways).tobytes() == queries.tobytes(), ways
    bare = client.embed(TEXTS)
    for ways in ({}, {"input_type": "passage"}, {"model": "short:document"}):
        assert embed(small_http, **ways).tobytes() == bare.tobytes(), ways
    instructed = client.embed(TEXTS, instruction="find it")
    assert embed(small_http, instruction="find it").tobytes() == instructed.tobytes()
    assert not np.array_equal(bare, queries)
    error = embed(small_http, 400, model="short:query", prompt_name="wrapped")
    assert error["param"] == "model"
    embed(small_http, 404, model="short:nope")


def test_ids_get_the_special_tokens_that_they_lack(small_http, client):
    bare = client.embed(TEXTS)
    for opening in ([], [BOS]):
        for closing in ([], [EOS]):
            ids = [[*opening, *byte_ids(text), *closing] for text in TEXTS]
            assert embed(small_http, input=ids).tobytes() == bare.tobytes(), (opening, closing)
    usage = small_http.post("/v1/embeddings", json={"model": "short", "input": byte_ids("abc")})
    assert usage.json()["usage"] == {"prompt_tokens": 5, "total_tokens": 5}
    embed(small_http, 413, input=[[1] * 39])
    assert embed(small_http, input=[[1] * 38]).shape == (1, DIMENSIONS)


def test_cut_texts_are_named_and_may_be_forbidden(small_http, small_gateway):
    payload = {"model": "short", "input": ["short", "y" * 60, "x"]}
    answer = small_http.post("/v1/embeddings", json=payload).json()
    assert answer["truncated"] == [1]
    assert small_gateway.metric("lasttoken_gateway_truncated_texts_total", model="short") >= 1
    assert (
        "truncated" not in small_http.post("/v1/embeddings", json=payload | {"input": "x"}).json()
    )
    error = embed(small_http, 413, input=payload["input"], truncate=False)
    assert error["code"] == "context_length_exceeded"
    assert error["message"].startswith("input[1] is longer than the 40 tokens of short")


def test_shorter_sizes_of_the_model_that_was_trained_for_them(small_http, client):
    full = client.embed(TEXTS)
    for size in (8, 20):
        short = embed(small_http, dimensions=size)
        wanted = full[:, :size] / np.linalg.norm(full[:, :size], axis=1, keepdims=True)
        np.testing.assert_allclose(short, wanted, atol=1e-6)
    assert embed(small_http, dimensions=DIMENSIONS).tobytes() == full.tobytes()
    for model, size in (("short", 7), ("short", 33), ("whole", 8)):
        assert embed(small_http, 400, model=model, dimensions=size)["param"] == "dimensions"
    assert embed(small_http, model="whole", dimensions=DIMENSIONS).shape == (2, DIMENSIONS)


def test_several_models_and_a_default(small_http):
    assert [m["id"] for m in small_http.get("/v1/models").json()["data"]] == ["short", "whole"]
    assert small_http.get("/info").json()["model_id"] == "short"
    assert small_http.get("/v1/models/whole").json()["matryoshka"] is None
    assert len(small_http.post("/embed", json={"inputs": TEXTS}).json()) == 2
    answer = small_http.post("/v1/embeddings", json={"input": TEXTS}).json()
    named = small_http.post("/v1/embeddings", json={"input": TEXTS, "model": "short"}).json()
    assert answer == named


def test_several_models_without_a_default(small_server, tmp_path):
    import httpx

    from gateway.gateway_process import GatewayProcess

    words = (
        "no model is named and there are several: short, whole; name one, or, where the caller "
        "cannot, start the gateway with --default-model"
    )
    with GatewayProcess(small_server.grpc_url, tmp_path / "log") as process:
        answer = httpx.post(f"{process.url}/embed", json={"inputs": "x"})
        assert (answer.status_code, answer.json()["error"]) == (400, words)
        answer = httpx.post(f"{process.url}/v1/embeddings", json={"input": "x"})
        error = answer.json()["error"]
        assert (answer.status_code, error["message"], error["param"]) == (400, words, "model")


def test_a_default_that_is_not_served_is_named(small_server, tmp_path):
    import httpx

    from gateway.gateway_process import GatewayProcess

    options = ("--default-model", "long")
    with GatewayProcess(small_server.grpc_url, tmp_path / "log", *options) as process:
        answer = httpx.post(f"{process.url}/v1/embeddings", json={"input": "x"})
    assert answer.status_code == 404
    assert answer.json()["error"]["message"] == (
        "no model is named, and the default one, 'long', does not exist; there is short, whole"
    )

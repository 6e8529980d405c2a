"""Clients of text-embeddings-inference, Ollama and Cohere, pointed at the gateway."""

from __future__ import annotations

import base64

import cohere
import numpy as np
import ollama
import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError

from conftest import MODEL
from lasttoken import EmbeddingClient

pytestmark = pytest.mark.server

TEXTS = ["The cat sleeps on the sofa.", "日本語 🍰", "x"]
LONG = "word " * 3000


@pytest.fixture(scope="module")
def expected(smollm2_server):
    with EmbeddingClient(smollm2_server.grpc_url, MODEL) as client:
        return client.embed_full(TEXTS)


@pytest.fixture(scope="module")
def small(small_server):
    with EmbeddingClient(small_server.grpc_url, "short") as client:
        yield client


def same(vectors, wanted):
    return np.array(vectors, np.float32).tobytes() == wanted.tobytes()


@pytest.mark.parametrize("path", ["/embed", ""])
def test_text_embeddings_inference(gateway, expected, path):
    client = InferenceClient(model=f"{gateway.url}{path}")
    assert same(client.feature_extraction(TEXTS), expected.vectors)
    assert same(client.feature_extraction(TEXTS[0]), expected.vectors[:1])
    assert same(
        client.feature_extraction(TEXTS, normalize=True, truncate=True, prompt_name="sentence"),
        expected.vectors,
    )
    for wrong, status in (
        ({"normalize": False}, 400),
        ({"truncation_direction": "left"}, 400),
        ({"prompt_name": "nope"}, 400),
        ({"truncate": False}, 413),  # refused before it is computed
    ):
        with pytest.raises(HfHubHTTPError) as error:
            client.feature_extraction(LONG if "truncate" in wrong else "x", **wrong)
        assert error.value.response.status_code == status
        assert error.value.response.json()["error_type"] == "Validation"


def test_the_info_of_text_embeddings_inference(http):
    info = http.get("/info").json()
    assert (info["model_id"], info["max_input_length"]) == (MODEL, 2048)
    assert info["model_type"] == {"embedding": {"pooling": "last_token"}}
    assert info["max_client_batch_size"] == 300


def test_ollama(gateway, expected):
    client = ollama.Client(gateway.url)
    for name in (MODEL, "smollm2-135m:latest"):
        answer = client.embed(name, TEXTS, keep_alive="5m", options={"num_ctx": 99})
        assert same(answer.embeddings, expected.vectors)
        assert answer.prompt_eval_count == int(expected.token_counts.sum())
        assert answer.model == name
        assert answer.total_duration > 0
    assert same(client.embed(MODEL, TEXTS[0]).embeddings, expected.vectors[:1])
    with pytest.raises(ollama.ResponseError, match="'gpt' does not exist") as error:
        client.embed("gpt", "x")
    assert error.value.status_code == 404
    with pytest.raises(ollama.ResponseError, match="forbids to cut it"):
        client.embed(MODEL, LONG, truncate=False)


def test_ollama_of_one_text(gateway, expected):
    """As clients before `/api/embed` ask, such as langchain_community's OllamaEmbeddings."""
    client = ollama.Client(gateway.url)
    answer = client.embeddings(f"{MODEL}:latest", TEXTS[1], keep_alive="5m", options={"num_ctx": 9})
    assert same([answer.embedding], expected.vectors[1:2])
    with pytest.raises(ollama.ResponseError, match="'gpt' does not exist") as error:
        client.embeddings("gpt", "x")
    assert error.value.status_code == 404


def test_what_is_not_there_is_said_in_the_shape_of_the_server_that_has_it(http):
    tags = http.get("/api/tags")
    assert tags.status_code == 404
    assert tags.json() == {"error": "there is no GET /api/tags here; see /openapi.json"}
    assert http.get("/api/embed").json() == {"error": "/api/embed takes no GET"}
    assert http.get("/embed").json()["error_type"] == "Backend"
    assert set(http.post("/v2/chat").json()) == {"id", "message"}
    for path in ("/v1/chat/completions", "/v3/embed", "/api", "/rerank"):
        answer = http.post(path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_url")
    with pytest.raises(ollama.ResponseError, match="there is no GET /api/tags here"):
        ollama.Client(str(http.base_url)).list()


def test_cohere(small_gateway, small):
    client = cohere.ClientV2("unused", base_url=small_gateway.url)
    documents = small.embed(TEXTS)  # this model has no prompt for documents
    queries = small.embed(TEXTS, prompt_name="query")
    answer = client.embed(model="short", input_type="search_document", texts=TEXTS)
    assert same(answer.embeddings.float_, documents)
    assert answer.texts == TEXTS
    assert answer.meta.billed_units.input_tokens == int(small.embed_full(TEXTS).token_counts.sum())
    answer = client.embed(
        model="short",
        input_type="search_query",
        inputs=[{"content": [{"type": "text", "text": text}]} for text in TEXTS],
        embedding_types=["float", "base64", "binary", "ubinary"],
    )
    assert same(answer.embeddings.float_, queries)
    decoded = [np.frombuffer(base64.b64decode(text), "<f4") for text in answer.embeddings.base64]
    assert same(decoded, queries)
    bits = np.packbits(queries > 0, axis=1)
    assert answer.embeddings.ubinary == bits.tolist()
    assert answer.embeddings.binary == (bits.astype(int) - 128).tolist()
    short = client.embed(
        model="short", input_type="search_query", texts=TEXTS, output_dimension=8
    ).embeddings.float_
    wanted = queries[:, :8] / np.linalg.norm(queries[:, :8], axis=1, keepdims=True)
    np.testing.assert_allclose(short, wanted, atol=1e-6)


def test_what_cohere_has_and_we_do_not_is_refused(small_gateway):
    client = cohere.ClientV2("unused", base_url=small_gateway.url)
    for wrong in (
        {"input_type": "image", "images": ["data:image/png;base64,AA=="]},
        {"texts": ["x"], "embedding_types": ["int8"]},
        {"texts": ["x"], "truncate": "START"},
        {"texts": ["x"], "max_tokens": 5},
        {"texts": []},
        {},
    ):
        with pytest.raises(cohere.BadRequestError) as error:
            client.embed(**{"model": "short", "input_type": "search_query", **wrong})
        assert error.value.body["message"]
    with pytest.raises(cohere.core.ApiError) as error:
        client.embed(model="short", input_type="search_query", texts=["y" * 99], truncate="NONE")
    assert error.value.status_code == 413

"""`encode` and its kin: the names, arguments and shapes of sentence-transformers."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from lasttoken import EmbeddingClient, InvalidInput, LasttokenError, TruncationWarning
from unit.client.fake_triton import DIMENSIONS, MODEL, vector_of, vectors_of

TEXTS = [f"text {'x' * (i % 7)} {i}" for i in range(50)]


def test_a_list_a_string_and_nothing(make_client):
    with make_client() as client:
        assert np.array_equal(client.encode(TEXTS), vectors_of(TEXTS))
        assert np.array_equal(client.encode(np.array(TEXTS)), vectors_of(TEXTS))
        assert np.array_equal(client.encode(sentences=TEXTS), vectors_of(TEXTS))
        assert np.array_equal(client.encode("one"), vector_of("one"))
        assert client.encode([]).shape == (0, DIMENSIONS)
        assert client.get_sentence_embedding_dimension() == DIMENSIONS
        assert client.get_embedding_dimension() == DIMENSIONS
        assert client.get_max_seq_length() is None


def test_batch_size_bounds_the_texts_of_a_request(fake, make_client):
    with make_client() as client:
        client.encode(TEXTS, batch_size=9)
    assert max(len(call.texts) for call in fake.calls) == 9
    assert len(fake.calls) == -(-50 // 9)


def test_a_prompt_by_name_and_one_in_full(fake, make_client):
    with make_client() as client:
        client.encode("a", prompt_name="query")
        vector = client.encode("a", prompt="Find: ")
    assert fake.calls[0].inputs == {"TEXT": [b"a"], "PROMPT_NAME": [b"query"]}
    # In front of the text, and no prompt of the model's besides.
    assert fake.calls[1].inputs == {"TEXT": [b"Find: a"], "PROMPT_NAME": [b""]}
    assert np.array_equal(vector, vector_of("Find: a"))


@pytest.mark.parametrize(
    ("prompts", "of_query", "of_document"),
    [
        (["document", "passage", "query"], b"query", b"document"),
        (["passage", "query"], b"query", b"passage"),
        (["search_document", "search_query", "clustering"], b"search_query", b"search_document"),
        ([], b"", b""),
    ],
)
def test_queries_and_documents_get_the_models_prompts(
    fake, make_client, prompts, of_query, of_document
):
    fake.card = json.dumps({"prompts": prompts, "max_length": 77})
    with make_client() as client:
        client.encode_query("a")
        client.encode_document(["a"])
        client.encode_query("a", prompt_name="mine")
        client.encode_document("a", prompt="Doc: ")
        assert client.get_max_seq_length() == 77
    sent = [call.inputs["PROMPT_NAME"][0] for call in fake.calls]
    assert sent == [of_query, of_document, b"mine", b""]
    assert fake.calls[3].texts == [b"Doc: a"]


def test_prompts_that_are_not_known_are_not_guessed(make_client):
    with make_client() as client, pytest.raises(InvalidInput, match="no card"):
        client.encode_query("a")


def test_tensors_where_torch_is_installed(make_client):
    torch = pytest.importorskip("torch")
    with make_client() as client:
        tensor = client.encode(TEXTS, convert_to_tensor=True)
        rows = client.encode(TEXTS, convert_to_numpy=False)
        one = client.encode("one", convert_to_tensor=True)
    assert isinstance(tensor, torch.Tensor)
    assert np.array_equal(tensor.numpy(), vectors_of(TEXTS))
    assert isinstance(rows, list)
    assert isinstance(rows[3], torch.Tensor)
    assert np.array_equal(rows[3].numpy(), vector_of(TEXTS[3]))
    assert one.shape == (DIMENSIONS,)
    assert EmbeddingClient.similarity(tensor, rows).shape == (50, 50)


def test_without_torch_tensors_are_refused_with_the_reason(make_client, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with make_client() as client:
        with pytest.raises(LasttokenError, match="torch is not installed"):
            client.encode("a", convert_to_tensor=True)
        assert client.encode("a").shape == (DIMENSIONS,)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"output_value": "token_embeddings"}, "output_value is 'token_embeddings'"),
        ({"output_value": None}, "output_value is None"),
        ({"device": "cuda"}, "device is 'cuda'"),
        ({"pool": {}}, "pool is {}"),
        ({"chunk_size": 5}, "chunk_size is 5"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"precision": "float16"}, "precision is 'float16'"),
        ({"prompt": "p", "prompt_name": "q"}, "both prompt='p'"),
        ({"truncate_dim": 0}, "dimensions is 0"),
        ({"task": "query"}, "no argument 'task'"),
        ({"processing_kwargs": {}}, "no argument 'processing_kwargs'"),
    ],
)
def test_what_cannot_be_honoured_is_refused(fake, make_client, options, words):
    with make_client() as client, pytest.raises(InvalidInput, match=words):
        client.encode(["a", "b"], **options)
    assert not fake.calls


def test_precision_of_the_whole_list(make_client):
    with make_client() as client:
        binary = client.encode(TEXTS, precision="ubinary")
        int8 = client.encode(TEXTS, precision="int8", batch_size=5)
        with pytest.raises(ValueError, match="one vector only"):
            client.encode("a", precision="int8")
    vectors = vectors_of(TEXTS)
    assert np.array_equal(binary, np.packbits(vectors > 0, axis=1))
    # The ranges are those of all texts and not of a request's.
    assert int8.min(axis=0).tolist() == [-128] * DIMENSIONS
    assert int8.max(axis=0).min() >= 126  # as there, rounding may lose the last step


def test_cut_vectors_are_normalised_when_asked(fake, make_client):
    fake.card = json.dumps({"matryoshka": {"minimum": 2}})
    with make_client() as client:
        cut = client.encode(TEXTS, truncate_dim=4)
        unit = client.encode(TEXTS, truncate_dim=4, normalize_embeddings=True)
    assert np.array_equal(cut, vectors_of(TEXTS)[:, :4])
    assert np.allclose(np.linalg.norm(unit, axis=1), 1.0)
    assert np.allclose(unit, cut / np.linalg.norm(cut, axis=1, keepdims=True))


def test_truncated_texts_warn(make_client):
    with make_client() as client, pytest.warns(TruncationWarning, match="positions 1"):
        client.encode(["short", "a text TOO LONG"])


def test_similarity_in_shapes_of_sentence_transformers(fake):
    a, b = 3.0 * vectors_of(TEXTS[:5]), vectors_of(TEXTS[3:10])
    with EmbeddingClient(fake.url, MODEL) as client:
        matrix = client.similarity(a, b)
        pairs = client.similarity_pairwise(a, b[:5])
        assert matrix.shape == (5, 7)
        assert np.allclose(matrix, (a / 3.0) @ b.T, atol=1e-6)
        assert np.allclose(pairs, np.diag(matrix[:, :5]), atol=1e-6)
        assert client.similarity(a[0], b).shape == (1, 7)
        assert client.similarity(list(a), b[1]).shape == (5, 1)
        assert np.array_equal(client.similarity(np.zeros(8), b[0]), [[0.0]])
        with pytest.raises(InvalidInput, match="cannot be compared"):
            client.similarity(a, b[:, :4])
        with pytest.raises(InvalidInput, match="cannot be compared"):
            client.similarity_pairwise(a, b)

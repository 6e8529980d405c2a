"""What the adapters take, against a scripted server; the frameworks themselves are real."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest

from lasttoken import InvalidInput
from unit.client.fake_triton import DIMENSIONS, MODEL, vector_of


@pytest.fixture
def matryoshka(fake):
    fake.card = json.dumps({"prompts": ["query", "document"], "matryoshka": {"dimensions": [4]}})
    return fake


def langchain(fake, **settings):
    pytest.importorskip("langchain_core")
    from lasttoken.adapters.langchain import LasttokenEmbeddings

    return LasttokenEmbeddings(MODEL, **{"url": fake.url, **settings})


def llama_index(fake, **settings):
    pytest.importorskip("llama_index.core")
    from lasttoken.adapters.llama_index import LasttokenEmbedding

    return LasttokenEmbedding(**{"model_name": MODEL, "url": fake.url, **settings})


def query_of(embeddings):
    call = getattr(embeddings, "embed_query", None) or embeddings.get_query_embedding
    return np.array(call("a"), np.float32)


@pytest.mark.parametrize("make", [langchain, llama_index])
def test_vectors_are_cut_to_the_dimensions_asked_for(matryoshka, make):
    expected = vector_of("a")[:4]
    vector = query_of(make(matryoshka, dimensions=4))
    assert np.allclose(vector, expected / np.linalg.norm(expected), atol=1e-6)
    with pytest.raises(InvalidInput, match="was trained for the sizes 4"):
        query_of(make(matryoshka, dimensions=3))
    assert len(query_of(make(matryoshka, dimensions=3, force_dimensions=True))) == 3
    assert len(query_of(make(matryoshka))) == DIMENSIONS


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"bogus": 1}, "no argument 'bogus'; EmbeddingClient takes headers, "),
        ({"url": "http://host:8001"}, "without a scheme"),
        ({"max_in_flight": 0}, "max_in_flight is 0"),
    ],
)
def test_langchain_refuses_a_wrong_setting_where_it_is_given(fake, settings, words):
    with pytest.raises(InvalidInput, match=words):
        langchain(fake, **settings)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"bogus": 1}, "bogus"),
        ({"client_options": {"bogus": 1}}, "no argument 'bogus'"),
        ({"client_options": {"max_in_flight": 0}}, "max_in_flight is 0"),
    ],
)
def test_llama_index_refuses_a_wrong_setting_where_it_is_given(fake, settings, words):
    with pytest.raises(ValueError, match=words):
        llama_index(fake, **settings)


def test_none_for_a_setting_is_its_default(fake):
    assert len(query_of(langchain(fake, headers=None, retry=None, tls=None))) == DIMENSIONS


def test_a_string_for_documents_is_not_taken_apart(fake):
    with pytest.raises(InvalidInput, match=r"give a list of texts: \[text\]"):
        langchain(fake).embed_documents("abc")
    assert not fake.calls


def test_a_field_of_llama_index_that_is_changed_later_counts(matryoshka):
    model = llama_index(matryoshka)
    query_of(model)
    model.query_prompt_name = "document"
    query_of(model)
    query_of(model.model_copy(update={"query_prompt_name": ""}))
    query_of(model)
    query_of(copy.deepcopy(model))
    sent = [call.inputs["PROMPT_NAME"][0] for call in matryoshka.calls]
    assert sent == [b"query", b"document", b"", b"document", b"document"]


def test_llama_index_is_stored_and_loaded_with_all_that_decides_its_vectors(matryoshka):
    model = llama_index(matryoshka, dimensions=4, query_prompt_name="document")
    loaded = type(model).from_dict(model.to_dict())
    assert np.array_equal(query_of(loaded), query_of(model))
    assert matryoshka.calls[0].inputs == matryoshka.calls[1].inputs


@pytest.mark.parametrize(
    ("make", "name", "documents"),
    [
        (langchain, "document_priority", lambda embeddings: embeddings.embed_documents(["a"])),
        (llama_index, "text_priority", lambda model: model.get_text_embedding("a")),
    ],
)
def test_documents_may_stand_behind_queries(matryoshka, make, name, documents):
    documents(make(matryoshka))
    embeddings = make(matryoshka, **{name: "bulk"})
    documents(embeddings)
    query_of(embeddings)
    classes = [call.parameters.get("service_class") for call in matryoshka.calls]
    assert classes == [None, "bulk", None]
    with pytest.raises(ValueError, match=name):
        make(matryoshka, **{name: "probe"})

"""The gateway as the real `openai` package, LangChain and LlamaIndex use it."""

from __future__ import annotations

import asyncio

import numpy as np
import openai
import pytest

from conftest import MODEL
from lasttoken import EmbeddingClient
from lasttoken_export.model_sources import TOKENIZER
from lasttoken_export.server_modules import server_module

pytestmark = pytest.mark.server

TEXTS = ["The cat sleeps on the sofa.", "日本語 🍰", "", "stocks fell " * 30, "x"]


@pytest.fixture(scope="module")
def expected(smollm2_server):
    with EmbeddingClient(smollm2_server.grpc_url, MODEL) as client:
        return client.embed_full(TEXTS)


@pytest.fixture(scope="module")
def sdk(gateway):
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="unused", max_retries=0) as client:
        yield client


def rows(response):
    assert [item.index for item in response.data] == list(range(len(response.data)))
    return np.array([item.embedding for item in response.data], np.float32)


@pytest.mark.parametrize("arguments", [{}, {"encoding_format": "float"}, {"user": "u-1"}])
def test_vectors_are_bitwise_those_of_the_client(sdk, expected, arguments):
    response = sdk.embeddings.create(model=MODEL, input=TEXTS, **arguments)
    assert rows(response).tobytes() == expected.vectors.tobytes()
    assert response.usage.prompt_tokens == int(expected.token_counts.sum())
    assert response.usage.total_tokens == response.usage.prompt_tokens
    assert response.model == MODEL
    assert response.object == "list"


def test_one_string_and_every_name_of_the_model(sdk, expected):
    for name in (MODEL, "smollm2-135m", "text-embedding-3-small", f"{MODEL}:sentence"):
        response = sdk.embeddings.create(model=name, input=TEXTS[0])
        assert rows(response).tobytes() == expected.vectors[:1].tobytes()
        assert response.model == name


def test_the_async_sdk(gateway, expected):
    async def embed():
        async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="unused") as client:
            calls = [client.embeddings.create(model=MODEL, input=text) for text in TEXTS]
            return await asyncio.gather(*calls)

    vectors = np.concatenate([rows(response) for response in asyncio.run(embed())])
    assert vectors.tobytes() == expected.vectors.tobytes()


def test_token_ids_are_the_texts_that_they_stand_for(sdk, smollm2_repository, smollm2_server):
    folder = smollm2_repository / f"{MODEL}{TOKENIZER}" / "1"
    tokenizer = server_module(TOKENIZER, "text_tokenizer").load_text_tokenizer(folder)
    prompted = server_module(TOKENIZER, "prompts").PromptedText
    texts = [text for text in TEXTS if text]
    ids = [row.ids.tolist() for row in tokenizer.encode([prompted(text) for text in texts])]
    with EmbeddingClient(smollm2_server.grpc_url, MODEL) as client:
        vectors = client.embed(texts, prompt_name="plain")
    many = sdk.embeddings.create(model=MODEL, input=ids)
    assert rows(many).tobytes() == vectors.tobytes()
    assert many.usage.prompt_tokens == sum(map(len, ids))
    one = sdk.embeddings.create(model=MODEL, input=ids[1])
    assert rows(one).tobytes() == vectors[1:2].tobytes()


def test_extension_fields_and_the_models_suffix(sdk, smollm2_server):
    with EmbeddingClient(smollm2_server.grpc_url, MODEL) as client:
        plain = client.embed(TEXTS[:1], prompt_name="plain")
    by_field = sdk.embeddings.create(
        model=MODEL, input=TEXTS[:1], extra_body={"prompt_name": "plain"}
    )
    by_suffix = sdk.embeddings.create(model=f"{MODEL}:plain", input=TEXTS[:1])
    assert rows(by_field).tobytes() == rows(by_suffix).tobytes() == plain.tobytes()


def test_errors_are_those_that_the_sdk_knows(sdk, gateway):
    with pytest.raises(openai.NotFoundError, match="model 'gpt' does not exist") as error:
        sdk.embeddings.create(model="gpt", input="x")
    assert (error.value.code, error.value.param) == ("model_not_found", "model")
    assert error.value.request_id
    assert gateway.event_of(error.value.request_id)["error"] == "model_not_found"
    for wrong, param in (
        ({"input": []}, "input"),
        ({"input": "x", "dimensions": 64}, "dimensions"),
        ({"input": "x", "dimensions": 0}, "dimensions"),
        ({"input": "x", "extra_body": {"prompt_name": "nope"}}, None),
        ({"input": "x", "extra_body": {"instruction": "find"}}, None),
        ({"input": "x", "extra_body": {"prompt": "nope"}}, None),
        ({"input": [[5]], "extra_body": {"prompt_name": "plain"}}, "input"),
        ({"input": [[50000]]}, "input"),
    ):
        with pytest.raises(openai.BadRequestError) as error:
            sdk.embeddings.create(model=MODEL, **wrong)
        assert error.value.param == param, wrong
    with pytest.raises(openai.UnprocessableEntityError, match="send at most 300"):
        sdk.embeddings.create(model=MODEL, input=["x"] * 301)


def test_models_are_listed_with_their_card(sdk):
    [model] = sdk.models.list().data
    assert (model.id, model.owned_by) == (MODEL, "lasttoken")
    assert model.model_extra["prompts"] == ["plain", "sentence"]
    assert model.model_extra["dimensions"] == 576
    assert sdk.models.retrieve("text-embedding-3-small").id == "text-embedding-3-small"
    with pytest.raises(openai.NotFoundError):
        sdk.models.retrieve("gpt")


def test_langchain(gateway, expected):
    from langchain_openai import OpenAIEmbeddings

    embeddings = OpenAIEmbeddings(
        model=MODEL,
        base_url=f"{gateway.url}/v1",
        api_key="unused",
        check_embedding_ctx_length=False,
    )
    texts = [text for text in TEXTS if text]
    wanted = [row for row, text in zip(expected.vectors, TEXTS, strict=True) if text]
    vectors = np.array(embeddings.embed_documents(texts), np.float32)
    assert vectors.tobytes() == np.stack(wanted).tobytes()
    query = np.array(asyncio.run(embeddings.aembed_query(TEXTS[0])), np.float32)
    assert query.tobytes() == expected.vectors[0].tobytes()


def test_llama_index(gateway, expected):
    from llama_index.embeddings.openai_like import OpenAILikeEmbedding

    model = OpenAILikeEmbedding(
        model_name=MODEL, api_base=f"{gateway.url}/v1", api_key="unused", embed_batch_size=2
    )
    vectors = np.array(model.get_text_embedding_batch([TEXTS[0], TEXTS[1], TEXTS[4]]), np.float32)
    assert vectors.tobytes() == expected.vectors[[0, 1, 4]].tobytes()
    query = np.array(asyncio.run(model.aget_query_embedding(TEXTS[0])), np.float32)
    assert query.tobytes() == expected.vectors[0].tobytes()

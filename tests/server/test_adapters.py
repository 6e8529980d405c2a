"""The adapters, in the real frameworks, on a real served model."""

from __future__ import annotations

import asyncio
import pickle

import numpy as np
import pytest

from lasttoken import EmbeddingClient, InvalidInput

pytestmark = pytest.mark.server

MODEL = "smollm2_135m"
TEXTS = [
    "The cat is sleeping on the sofa.",
    "The stock market crashed today.",
    "She plays the violin beautifully.",
]
QUERY = "A kitten naps on the couch."


@pytest.fixture(scope="module")
def url(smollm2_server) -> str:
    return smollm2_server.grpc_url


@pytest.fixture(scope="module")
def direct(url):
    """Vectors by the client itself."""
    with EmbeddingClient(url, MODEL) as client:
        return {
            "texts": client.embed(TEXTS),
            "query": client.embed(QUERY),
            "plain query": client.embed(QUERY, prompt_name="plain"),
        }


class TestLangChain:
    def make(self, url, **settings):
        from lasttoken.adapters.langchain import LasttokenEmbeddings

        return LasttokenEmbeddings(MODEL, url=url, **settings)

    def test_the_vectors_are_the_clients(self, url, direct):
        embeddings = self.make(url, query_prompt_name="plain")
        documents = embeddings.embed_documents(TEXTS)
        assert type(documents[0][0]) is float
        assert np.array_equal(np.array(documents, np.float32), direct["texts"])
        query = np.array(embeddings.embed_query(QUERY), np.float32)
        assert np.array_equal(query, direct["plain query"])
        assert embeddings.embed_documents([]) == []
        embeddings.close()

    def test_async_in_several_event_loops(self, url, direct):
        embeddings = self.make(url)

        async def both():
            found = await asyncio.gather(
                embeddings.aembed_documents(TEXTS), embeddings.aembed_query(QUERY)
            )
            await embeddings.aclose()
            return found

        for _ in range(2):
            documents, query = asyncio.run(both())
            assert np.array_equal(np.array(documents, np.float32), direct["texts"])
            assert np.array_equal(np.array(query, np.float32), direct["query"])

    def test_async_does_not_block_the_event_loop_nor_use_threads(self, url, monkeypatch):
        embeddings = self.make(url)
        monkeypatch.setattr("lasttoken.client.EmbeddingClient.embed", None)
        monkeypatch.setattr(asyncio, "to_thread", None)
        monkeypatch.setattr(asyncio.base_events.BaseEventLoop, "run_in_executor", None)

        async def one():
            vector = await embeddings.aembed_query(QUERY)
            await embeddings.aclose()
            return vector

        assert len(asyncio.run(one())) == 576

    def test_a_vector_store_of_langchain(self, url):
        from langchain_core.vectorstores import InMemoryVectorStore

        store = InMemoryVectorStore.from_texts(TEXTS, self.make(url))
        assert store.similarity_search(QUERY, k=1)[0].page_content == TEXTS[0]
        found = asyncio.run(store.asimilarity_search(QUERY, k=1))
        assert found[0].page_content == TEXTS[0]

    def test_a_prompt_and_an_instruction_are_one_too_many(self, url):
        with pytest.raises(InvalidInput, match="not both"):
            self.make(url, query_prompt_name="plain", query_instruction="find")

    def test_an_instruction_reaches_the_server(self, url):
        with pytest.raises(InvalidInput, match="takes no INSTRUCTION"):
            self.make(url, query_instruction="find").embed_query(QUERY)

    def test_client_options_are_passed_on(self, url):
        with pytest.raises(InvalidInput, match="max_in_flight"):
            self.make(url, max_in_flight=0).embed_query(QUERY)


class TestLlamaIndex:
    def make(self, url, **settings):
        from lasttoken.adapters.llama_index import LasttokenEmbedding

        return LasttokenEmbedding(model_name=MODEL, url=url, **settings)

    def test_the_vectors_are_the_clients(self, url, direct):
        model = self.make(url, query_prompt_name="plain")
        batch = np.array(model.get_text_embedding_batch(TEXTS), np.float32)
        assert np.array_equal(batch, direct["texts"])
        one = np.array(model.get_text_embedding(TEXTS[1]), np.float32)
        assert np.array_equal(one, direct["texts"][1])
        query = np.array(model.get_query_embedding(QUERY), np.float32)
        assert np.array_equal(query, direct["plain query"])
        model.close()

    def test_batches_are_of_the_size_asked_for(self, url, direct, monkeypatch):
        calls = []
        embed = EmbeddingClient.embed

        def counted(client, texts, **arguments):
            calls.append(len(texts))
            return embed(client, texts, **arguments)

        monkeypatch.setattr(EmbeddingClient, "embed", counted)
        model = self.make(url, embed_batch_size=2)
        batch = np.array(model.get_text_embedding_batch(TEXTS), np.float32)
        assert np.array_equal(batch, direct["texts"])
        assert calls == [2, 1]

    def test_async(self, url, direct):
        model = self.make(url)

        async def both():
            found = await asyncio.gather(
                model.aget_text_embedding_batch(TEXTS),
                model.aget_query_embedding(QUERY),
                model.aget_text_embedding(TEXTS[2]),
            )
            await model.aclose()
            return found

        batch, query, one = asyncio.run(both())
        assert np.array_equal(np.array(batch, np.float32), direct["texts"])
        assert np.array_equal(np.array(query, np.float32), direct["query"])
        assert np.array_equal(np.array(one, np.float32), direct["texts"][2])

    def test_an_index_of_llama_index(self, url):
        from llama_index.core import Document, VectorStoreIndex

        documents = [Document(text=text) for text in TEXTS]
        model = self.make(url)
        index = VectorStoreIndex.from_documents(documents, embed_model=model)
        found = index.as_retriever(similarity_top_k=1).retrieve(QUERY)
        assert found[0].text == TEXTS[0]

    def test_it_survives_pickling_and_tells_no_headers(self, url, direct):
        model = self.make(url, client_options={"headers": {"authorization": "Bearer s3cret"}})
        model.get_query_embedding(QUERY)
        copy = pickle.loads(pickle.dumps(model))  # noqa: S301 - our own
        query = np.array(copy.get_query_embedding(QUERY), np.float32)
        assert np.array_equal(query, direct["query"])
        assert "s3cret" not in model.to_json()


class TestMteb:
    @pytest.fixture(scope="class")
    def encoder(self, url):
        from lasttoken.adapters.mteb import LasttokenEncoder

        return LasttokenEncoder(MODEL, url=url)

    def test_it_is_an_encoder_of_mteb_and_says_what_is_served(self, encoder):
        from mteb.models.models_protocols import EncoderProtocol

        assert isinstance(encoder, EncoderProtocol)
        meta = encoder.mteb_model_meta
        assert meta.name == "lasttoken/smollm2-135m"
        assert meta.revision.endswith("-fp32-onnxruntime-cpu")
        assert meta.embed_dim == 576

    # scikit-learn warns of classes that a handful of rows never predicts, torch of mteb's own code.
    @pytest.mark.filterwarnings("ignore::UserWarning")
    def test_evaluate_on_mock_tasks_of_every_kind_of_text(self, encoder):
        import mteb
        from mteb.mocks import MOCK_TASK_TEST_GRID_MONOLINGUAL

        tasks = {type(task).__name__: task for task in MOCK_TASK_TEST_GRID_MONOLINGUAL}
        chosen = [
            tasks[name]
            for name in (
                "MockClassificationTask",
                "MockClusteringTask",
                "MockPairClassificationTask",
                "MockRerankingTask",
                "MockRetrievalTask",
                "MockSTSTask",
                "MockSummarizationTask",
                "MockBitextMiningTask",
            )
        ]
        results = mteb.evaluate(encoder, chosen, cache=None, show_progress_bar=False)
        assert len(results.task_results) == len(chosen)
        for result in results.task_results:
            assert np.isfinite(result.get_score())

    def test_a_small_real_task_has_the_score_of_the_clients_vectors(self, encoder, url):
        """A retrieval task made here; its score, worked out from plain vectors, must come back."""
        import mteb
        from datasets import Dataset
        from mteb.mocks import MockRetrievalTask

        queries = [QUERY, "Share prices fell sharply.", "Her music is lovely."]
        task = MockRetrievalTask()
        split = {
            "corpus": Dataset.from_list(
                [{"id": f"d{i}", "title": "", "text": text} for i, text in enumerate(TEXTS)]
            ),
            "queries": Dataset.from_list(
                [{"id": f"q{i}", "text": text} for i, text in enumerate(queries)]
            ),
            "relevant_docs": {f"q{i}": {f"d{i}": 1} for i in range(3)},
            "top_ranked": None,
        }
        task.load_data = lambda **_: None
        task.dataset = {"default": dict.fromkeys(task.metadata.eval_splits, split)}
        task.data_loaded = True
        results = mteb.evaluate(encoder, [task], cache=None, show_progress_bar=False)
        scores = results.task_results[0].scores["test"][0]
        with EmbeddingClient(url, MODEL) as client:
            similarity = client.embed(queries) @ client.embed(TEXTS).T
        ranks = (similarity > np.diag(similarity)[:, None]).sum(axis=1)
        assert scores["mrr_at_10"] == pytest.approx(float(np.mean(1 / (1 + ranks))), abs=1e-5)
        assert scores["recall_at_1"] == pytest.approx(float(np.mean(ranks == 0)), abs=1e-5)

    def test_the_prompt_of_a_task_is_sent_and_can_be_chosen(self, url, monkeypatch):
        import mteb
        from mteb.mocks import MockRetrievalTask, MockSTSTask

        from lasttoken.adapters.mteb import LasttokenEncoder

        sent = []
        embed = EmbeddingClient.embed

        def noted(client, texts, **arguments):
            sent.append((arguments.get("prompt_name"), arguments["priority"], len(texts)))
            return embed(client, texts, **arguments)

        monkeypatch.setattr(EmbeddingClient, "embed", noted)
        sts, retrieval = MockSTSTask(), MockRetrievalTask()
        names = {sts.metadata.name: "plain", retrieval.metadata.name: "sentence"}
        encoder = LasttokenEncoder(MODEL, url=url, prompt_names=names)
        mteb.evaluate(encoder, [sts], cache=None, show_progress_bar=False)
        assert {call[:2] for call in sent} == {("plain", "bulk")}
        sent.clear()
        mteb.evaluate(encoder, [retrieval], cache=None, show_progress_bar=False)
        assert {call[0] for call in sent} == {"sentence", None}  # documents have none

    def test_another_revision_is_refused(self, url):
        from lasttoken import LasttokenError
        from lasttoken.adapters.mteb import LasttokenEncoder

        with pytest.raises(LasttokenError, match="not 'abc'"):
            LasttokenEncoder(MODEL, "abc", url=url)

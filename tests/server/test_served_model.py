"""The demonstration model behind a real Triton: what a caller sees."""

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from conftest import MODEL
from lasttoken import (
    AsyncEmbeddingClient,
    DeadlineExceeded,
    EmbeddingClient,
    InvalidInput,
    LasttokenError,
    RetryPolicy,
    ServerOverloaded,
    TruncationWarning,
)
from lasttoken.demo import PARAPHRASES
from lasttoken.local import LocalTriton
from lasttoken_export.catalogue import entry
from lasttoken_export.checkpoint import open_checkpoint
from lasttoken_export.exporter import ExportOptions, export_model
from lasttoken_export.model_sources import ENCODER, TOKENIZER
from lasttoken_export.server_modules import server_module
from lasttoken_perf.corpus import long_tailed_texts
from lasttoken_perf.served import read_metrics
from lasttoken_perf.soak import SoakOptions, run_soak

pytestmark = pytest.mark.server

TEXTS = long_tailed_texts(24, seed=5, median_words=12, longest_words=80)


@pytest.fixture
def client(smollm2_server):
    with EmbeddingClient(smollm2_server.grpc_url, MODEL) as client:
        yield client


@pytest.fixture(scope="module")
def alone(smollm2_server):
    with EmbeddingClient(smollm2_server.grpc_url, MODEL) as client:
        return np.stack([client.embed(text) for text in TEXTS])


@pytest.fixture
def raw(smollm2_server):
    with triton.InferenceServerClient(smollm2_server.grpc_url) as connection:
        yield connection


def bytes_input(name, values):
    array = np.array([[value] for value in values], dtype=object).reshape(len(values), 1)
    tensor = triton.InferInput(name, list(array.shape), "BYTES")
    tensor.set_data_from_numpy(array)
    return tensor


def int_input(name, values):
    array = np.array(values, np.int32)
    tensor = triton.InferInput(name, list(array.shape), "INT32")
    tensor.set_data_from_numpy(array)
    return tensor


def test_every_sentence_finds_its_paraphrase(client):
    vectors = client.embed([sentence for pair in PARAPHRASES for sentence in pair])
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -1)
    assert cosines.argmax(axis=1).tolist() == [index ^ 1 for index in range(len(vectors))]


def test_a_text_has_bitwise_the_same_vector_in_any_request_and_batch(client, alone):
    np.testing.assert_array_equal(client.embed(TEXTS), alone)
    np.testing.assert_array_equal(client.embed(TEXTS[::-1])[::-1], alone)
    with ThreadPoolExecutor(12) as pool:  # many requests at once: batched by the scheduler
        for _ in range(2):
            vectors = list(pool.map(client.embed, TEXTS))
            np.testing.assert_array_equal(np.stack(vectors), alone)


@pytest.mark.skipif(len(os.sched_getaffinity(0)) not in range(2, 9), reason="has no streams")
def test_a_text_has_bitwise_the_same_vector_in_a_stream(smollm2_server, client, alone):
    """With enough waiting the encoder computes batches beside each other, a thread each."""
    before = read_metrics(smollm2_server.metrics_url)
    with ThreadPoolExecutor(48) as pool:
        vectors = list(pool.map(client.embed, TEXTS * 8))
    np.testing.assert_array_equal(np.stack(vectors), np.tile(alone, (8, 1)))
    after = read_metrics(smollm2_server.metrics_url)
    batch_s, busy_s = (
        after[name] - before[name]
        for name in (f"lasttoken_encoder_{kind}_seconds_total" for kind in ("batch", "busy"))
    )
    assert batch_s > 1.3 * busy_s


def test_a_text_has_bitwise_the_same_vector_beside_a_bulk_batch(client, alone):
    """Interactive rows are computed while bulk ones are, by the same session."""
    long = [" ".join(TEXTS[start : start + 6]) for start in range(12)]
    expected = client.embed(long)
    with ThreadPoolExecutor(16) as pool:
        bulk = [pool.submit(client.embed, text, priority="bulk") for text in long * 3]
        beside = 0
        while not all(future.done() for future in bulk):
            index = beside % len(TEXTS)
            np.testing.assert_array_equal(client.embed(TEXTS[index]), alone[index])
            beside += 1
        np.testing.assert_array_equal(np.stack([f.result() for f in bulk]), [*expected] * 3)
    assert beside > 3


def bare_vectors(repository, texts):
    """The vectors of texts by tokenizer and engine alone, one after the other."""
    folder = repository / f"{MODEL}{TOKENIZER}" / "1"
    tokenizer = server_module(TOKENIZER, "text_tokenizer").load_text_tokenizer(folder)
    prompts = server_module(TOKENIZER, "prompts")
    engine = server_module(ENCODER, "onnxruntime_engine").OnnxRuntimeEngine(
        repository / f"{MODEL}{ENCODER}" / "1" / "encoder.onnx",
        runtime="onnxruntime-cpu",
        intra_op_threads=0,
    )
    prompted = [
        prompts.PromptedText(f'This sentence : "{text}" means in one word:"') for text in texts
    ]
    rows = [row.ids for row in tokenizer.encode(prompted)]
    return np.concatenate([engine.encode(row, np.array([len(row)], np.int32)) for row in rows])


def test_the_vectors_are_the_bare_engines(smollm2_repository, alone):
    """Tokenizer, wire, scheduler and packing change nothing."""
    np.testing.assert_array_equal(bare_vectors(smollm2_repository, TEXTS[:8]), alone[:8])


def test_shapes_and_norms(client):
    one, many, none = client.embed("a"), client.embed(["a", "b", "a"]), client.embed([])
    assert (one.shape, many.shape, none.shape) == ((576,), (3, 576), (0, 576))
    assert one.dtype == many.dtype == none.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(many, axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(many[0], many[2])
    assert not np.array_equal(many[0], many[1])


def test_prompts_change_the_vector_and_unknown_ones_are_refused(client):
    text = "a short text"
    assert not np.array_equal(client.embed(text), client.embed(text, prompt_name="plain"))
    np.testing.assert_array_equal(client.embed(text), client.embed(text, prompt_name="sentence"))
    with pytest.raises(InvalidInput, match=r"'query'; smollm2-135m has \['plain', 'sentence'\]"):
        client.embed(text, prompt_name="query")
    with pytest.raises(InvalidInput, match="takes no INSTRUCTION"):
        client.embed(text, instruction="find something")


def test_a_long_text_is_cut_and_the_caller_is_told(client):
    text = " ".join(long_tailed_texts(1, seed=3, median_words=3000, longest_words=3000))
    with pytest.warns(TruncationWarning):
        vector = client.embed(text)
    full = client.embed_full(text)
    assert int(full.token_counts) == 2048
    assert bool(full.truncated)
    np.testing.assert_array_equal(full.vectors, vector)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        client.embed("short")


def test_bad_requests_are_refused_and_their_neighbours_answered(raw, client, alone):
    bad = {
        "not UTF-8": [bytes_input("TEXT", [b"fine", b"\xff\xfe"])],
        "has 1000001 bytes": [bytes_input("TEXT", [b"x" * 1_000_001])],
        "send one of them": [
            bytes_input("TEXT", [b"a"]),
            bytes_input("PROMPT_NAME", [b"plain"]),
            bytes_input("INSTRUCTION", [b"do"]),
        ],
        "nothing to embed": [
            bytes_input("TEXT", [b""]),
            bytes_input("PROMPT_NAME", [b"plain"]),
        ],
        "got 0": [bytes_input("TEXT", [])],  # Triton itself refuses an empty list
    }

    def refusal(inputs):
        with pytest.raises(InferenceServerException) as error:
            raw.infer(MODEL, inputs)
        return error.value

    with ThreadPoolExecutor(16) as pool:
        good = [pool.submit(client.embed, text) for text in TEXTS[:8]]
        refusals = {words: pool.submit(refusal, inputs) for words, inputs in bad.items()}
        for words, future in refusals.items():
            error = future.result()
            assert error.status() == "StatusCode.INVALID_ARGUMENT", (words, str(error))
            assert words in str(error)
        np.testing.assert_array_equal(np.stack([f.result() for f in good]), alone[:8])


def test_an_unknown_service_class_is_refused(raw):
    with pytest.raises(InferenceServerException, match="'urgent'; send one of") as error:
        raw.infer(MODEL, [bytes_input("TEXT", [b"a"])], parameters={"service_class": "urgent"})
    assert error.value.status() == "StatusCode.INVALID_ARGUMENT"


@pytest.mark.parametrize(
    ("ids", "lengths", "words"),
    [
        ([[1, 2, 3]], [[4]], "row 0 has length 4"),
        ([[1, 2, 3], [1, 0, 0]], [[3], [0]], "row 1 has length 0"),
        ([[1, 49152]], [[2]], "the vocabulary is 0 to 49151"),
    ],
)
def test_the_encoder_refuses_rows_that_it_cannot_compute(raw, client, alone, ids, lengths, words):
    with pytest.raises(InferenceServerException, match=words) as error:
        raw.infer(
            f"{MODEL}{ENCODER}", [int_input("INPUT_IDS", ids), int_input("ROW_LENGTHS", lengths)]
        )
    assert error.value.status() == "StatusCode.INVALID_ARGUMENT"
    np.testing.assert_array_equal(client.embed(TEXTS[0]), alone[0])


def test_a_full_queue_refuses_at_once_and_the_accepted_are_answered(smollm2_server, alone):
    async def flood():
        options = {"retry": RetryPolicy(max_attempts=1)}
        async with AsyncEmbeddingClient(smollm2_server.grpc_url, MODEL, **options) as client:

            async def one(number):
                started_s = time.monotonic()
                try:
                    vector = await client.embed(TEXTS[number % len(TEXTS)])
                except ServerOverloaded:
                    return number, None, time.monotonic() - started_s
                return number, vector, time.monotonic() - started_s

            return await asyncio.gather(*(one(number) for number in range(400)))

    before = read_metrics(smollm2_server.metrics_url).get("lasttoken_encoder_refused_total", 0)
    results = asyncio.run(flood())
    answered = [(number, vector) for number, vector, _ in results if vector is not None]
    refused = [seconds for _, vector, seconds in results if vector is None]
    assert len(answered) >= 20
    assert len(refused) >= 50
    for number, vector in answered:
        np.testing.assert_array_equal(vector, alone[number % len(TEXTS)])
    assert max(refused) < max(seconds for _, vector, seconds in results if vector is not None)
    after = read_metrics(smollm2_server.metrics_url)["lasttoken_encoder_refused_total"]
    assert after - before == len(refused)


def test_with_patience_a_client_gets_through_an_overload(smollm2_server, alone):
    with EmbeddingClient(smollm2_server.grpc_url, MODEL) as client:
        texts = TEXTS * 12
        np.testing.assert_array_equal(client.embed(texts, timeout_s=300), np.tile(alone, (12, 1)))


def test_what_has_expired_is_not_computed(smollm2_server):
    def expired():
        return read_metrics(smollm2_server.metrics_url, 'reason="expired"').get(
            "lasttoken_encoder_refused_total", 0
        )

    before = expired()
    with EmbeddingClient(smollm2_server.grpc_url, MODEL) as client, ThreadPoolExecutor(1) as pool:
        busy = pool.submit(client.embed, TEXTS * 12, timeout_s=300)
        time.sleep(0.3)
        for timeout_s in (0.02, 0.02, 0.02, 0.05, 0.1):  # one must get as far as the encoder
            with pytest.raises(DeadlineExceeded):
                client.embed("too late", timeout_s=timeout_s)
        busy.result()
        client.embed("afterwards")
    assert expired() > before


def counted_tokens(server, embed):
    """Real, computed, shared and kept tokens of what is embedded, and its number of tokens."""

    def counts():
        metrics = read_metrics(server.metrics_url)
        kinds = ("real", "computed", "shared", "kept")
        return np.array([metrics[f"lasttoken_encoder_{kind}_tokens_total"] for kind in kinds])

    before, later = None, counts()
    while not np.array_equal(before, later):  # work of earlier tests is counted after its answers
        time.sleep(0.5)
        before, later = later, counts()
    tokens = int(embed().token_counts.sum())
    deadline_s = time.monotonic() + 5
    while (counts() - before)[0] < tokens and time.monotonic() < deadline_s:
        time.sleep(0.05)  # counted after the answers are sent
    time.sleep(0.2)  # one counter after the other
    return *(counts() - before).tolist(), tokens


def test_no_padded_token_is_computed(smollm2_server, client):
    real, computed, shared, kept, tokens = counted_tokens(
        smollm2_server, lambda: client.embed_full(TEXTS)
    )
    assert real == tokens
    assert computed + shared + kept == tokens


def test_what_texts_begin_with_is_computed_once_and_no_vector_shows_it(
    smollm2_server, smollm2_repository, client
):
    instruction = "Given a question of a reader, find the pages of a handbook that answer it: "
    queries = [instruction + text for text in TEXTS[:12]]
    answers = []

    def embed():
        answers.append(client.embed_full(queries))
        return answers[-1]

    real, computed, shared, kept, tokens = counted_tokens(smollm2_server, embed)
    assert (real, computed + shared + kept) == (tokens, tokens)
    assert shared > 10 * 12 / 2  # the instruction's tokens, of at least half of the texts
    # Nor that from now on it is not computed at all, in a batch of twelve or of one.
    alone = []

    def embed_alone():
        alone.extend(client.embed_full([query]) for query in queries)
        return SimpleNamespace(token_counts=np.concatenate([one.token_counts for one in alone]))

    real, computed, shared, kept, tokens = counted_tokens(smollm2_server, embed_alone)
    assert (real, computed + kept, shared) == (tokens, tokens, 0)
    assert kept > 10 * 12
    assert np.array_equal(answers[-1].vectors, np.concatenate([one.vectors for one in alone]))
    bare = bare_vectors(smollm2_repository, queries)
    assert np.array_equal(answers[-1].vectors, bare)


def test_the_command_line_embeds_lines_of_stdin(smollm2_server, alone, tmp_path):
    output = tmp_path / "vectors.npy"
    command = [sys.executable, "-m", "lasttoken.cli", "embed", "--url", smollm2_server.grpc_url,
               "--output", str(output)]  # fmt: skip
    lines = "\n".join(TEXTS[:5]).encode()
    run = subprocess.run(command, input=lines, capture_output=True, check=False)
    assert run.returncode == 0, run.stderr.decode()
    np.testing.assert_array_equal(np.load(output), alone[:5])


@pytest.mark.slow
def test_a_short_soak_with_cancels_and_deadlines(smollm2_server):
    said = []
    options = SoakOptions(requests=600, clients=48, distinct_texts=40)
    result = run_soak(smollm2_server, MODEL, options, say=said.append)
    outcomes = result["outcomes"]
    assert sum(outcomes.values()) == 600
    assert outcomes["answered"] > 400
    assert outcomes["cancelled"] > 5
    assert result["wrong_answers"] == 0


@pytest.mark.slow
def test_a_stopping_server_answers_what_is_in_flight(
    smollm2_repository, cache_folder, smollm2_server
):
    texts = long_tailed_texts(16, seed=6, median_words=200, longest_words=300)
    with EmbeddingClient(smollm2_server.grpc_url, MODEL) as client:
        expected = client.embed(texts)
    with (
        LocalTriton(smollm2_repository, cache_folder=cache_folder) as server,
        EmbeddingClient(server.grpc_url, MODEL, retry=RetryPolicy(max_attempts=1)) as client,
        ThreadPoolExecutor(16) as pool,
    ):
        client.embed("warm")
        futures = [pool.submit(client.embed, text) for text in texts]
        time.sleep(0.4)  # all are with the server, few are done
        pending = sum(not future.done() for future in futures)
        psutil.Process(server.pid).send_signal(signal.SIGTERM)
        assert pending >= 5
        for future, vector in zip(futures, expected, strict=True):
            np.testing.assert_array_equal(future.result(60), vector)
        with pytest.raises(LasttokenError):
            client.embed("after the end", timeout_s=2)


def test_the_server_says_what_it_serves(client, smollm2_repository):
    card = json.loads((smollm2_repository / MODEL / "1" / "card.json").read_text())
    assert client.model_info().card == card
    assert card["precision"] == "fp32"
    assert card["licence"]["id"] == "apache-2.0"


@pytest.mark.slow
def test_a_second_model_is_added_while_the_first_is_served(
    smollm2_repository, cache_folder, tmp_path, alone
):
    repository = tmp_path / "repository"
    shutil.copytree(smollm2_repository, repository)
    name = "all-minilm-l6-v2"
    texts = ["How do I bake a cake?", "Mix flour, sugar and eggs.", "Fever, cough and aches."]
    with (
        LocalTriton(repository, cache_folder=cache_folder) as server,
        EmbeddingClient(server.grpc_url, MODEL) as client,
    ):
        np.testing.assert_array_equal(client.embed(TEXTS[0]), alone[0])
        checkpoint = open_checkpoint(entry(name).source, cache_folder=cache_folder)
        export_model(checkpoint, entry(name), ExportOptions(output=repository))
        np.testing.assert_array_equal(client.embed(TEXTS[1]), alone[1])
        np.testing.assert_array_equal(client.embed(TEXTS[2]), alone[2])
    with LocalTriton(repository, cache_folder=cache_folder) as server:
        with (
            EmbeddingClient(server.grpc_url, MODEL) as first,
            EmbeddingClient(server.grpc_url, "all_minilm_l6_v2") as second,
        ):
            np.testing.assert_array_equal(first.embed(TEXTS[3]), alone[3])
            question, recipe, illness = second.embed(texts)
            assert question.shape == (384,)
            assert question @ recipe > question @ illness + 0.1
            listed = {model.name: model.card["model"] for model in first.list_models()}
        assert listed == {MODEL: "smollm2-135m", "all_minilm_l6_v2": name}


def test_refusals_that_never_came_are_counted_too(smollm2_server):
    """At 0, so that the first one is an increase to Prometheus."""
    for reason in ("invalid", "overloaded", "expired", "cancelled", "shutting_down"):
        label = f'reason="{reason}"'
        assert "lasttoken_encoder_refused_total" in read_metrics(smollm2_server.metrics_url, label)
    assert "lasttoken_encoder_refused_total" not in read_metrics(
        smollm2_server.metrics_url, 'reason="engine_failed"'
    )


def test_every_metric_is_documented(smollm2_server, client, pytestconfig):
    client.embed("a text")
    page = (pytestconfig.rootpath / "docs" / "metrics.md").read_text()
    served = {
        re.sub("_(bucket|sum|count)$", "", name)
        for name in read_metrics(smollm2_server.metrics_url)
        if "lasttoken" in name
    }
    assert len(served) >= 12
    assert {name for name in served if f"`{name}" not in page} == set()

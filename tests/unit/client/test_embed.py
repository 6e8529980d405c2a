"""What `embed` gives for what it gets, over the wire, for the sync and the async client."""

from __future__ import annotations

import gc
import itertools
import random
import signal
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest

from lasttoken import (
    AsyncEmbeddingClient,
    DeadlineExceeded,
    EmbeddingClient,
    InputTooLong,
    InvalidInput,
    ModelNotFound,
    ModelUnavailable,
    ProtocolMismatch,
    RequestCancelled,
    RetryPolicy,
    ServerError,
    ServerOverloaded,
    TruncationWarning,
)
from unit.client.fake_triton import (
    DIMENSIONS,
    MODEL,
    FakeTriton,
    answer,
    delay,
    refuse,
    vector_of,
    vectors_of,
)

QUICK = RetryPolicy(initial_s=0.005, max_s=0.02)


def texts_of_many_lengths(count, seed=7):
    draw = random.Random(seed)
    alphabet = "abc é漢\U0001f600\n"
    return [
        f"{i} " + "".join(draw.choices(alphabet, k=draw.choice([0, 3, 40, 700])))
        for i in range(count)
    ]


def test_a_string_gives_one_vector(make_client):
    with make_client() as client:
        vector = client.embed("hello")
    assert vector.shape == (DIMENSIONS,)
    assert vector.dtype == np.float32
    assert np.array_equal(vector, vector_of("hello"))


def test_a_list_gives_rows_in_its_order_although_requests_are_formed_by_length(fake, make_client):
    texts = texts_of_many_lengths(500)
    with make_client(max_texts_per_request=7) as client:
        vectors = client.embed(texts)
    assert vectors.dtype == np.float32
    assert np.array_equal(vectors, vectors_of(texts))
    assert len(fake.calls) == -(-500 // 7)
    for call in fake.calls:
        lengths = [len(text) for text in call.texts]
        assert lengths == sorted(lengths, reverse=True)
    # Rows of one request are neighbours in length: the ranges of two requests never overlap.
    ranges = sorted((min(map(len, c.texts)), max(map(len, c.texts))) for c in fake.calls)
    assert all(low[1] <= high[0] for low, high in itertools.pairwise(ranges))


def test_order_holds_when_answers_overtake_each_other(fake, make_client):
    texts = texts_of_many_lengths(60)
    fake.first.extend(delay(0.002 * ((7 * i) % 20)) for i in range(20))
    with make_client(max_texts_per_request=3, max_in_flight=6) as client:
        assert np.array_equal(client.embed(texts), vectors_of(texts))


@pytest.mark.parametrize("empty", [[], ()])
def test_an_empty_list_gives_no_rows_but_the_models_dimensions(fake, make_client, empty):
    with make_client() as client:
        vectors = client.embed(empty)
        full = client.embed_full(empty)
    assert vectors.shape == (0, DIMENSIONS)
    assert vectors.dtype == np.float32
    assert full.vectors.shape == (0, DIMENSIONS)
    assert full.token_counts.shape == full.truncated.shape == (0,)
    assert not fake.calls


def test_texts_arrive_byte_for_byte(fake, make_client):
    texts = ["", " ", "\0", "ends in nul\0\0", "a\r\nb", "\U0001f600", "e\u0301", "x" * 300_000]
    with make_client() as client:
        assert np.array_equal(client.embed(texts), vectors_of(texts))
    sent = {text for call in fake.calls for text in call.texts}
    assert sent == {text.encode() for text in texts}


def test_numpy_and_tuple_lists_are_lists(make_client):
    with make_client() as client:
        assert client.embed(np.array(["a", "b"])).shape == (2, DIMENSIONS)
        assert client.embed(("a",)).shape == (1, DIMENSIONS)


def test_embed_full_tells_token_counts_and_truncation(make_client):
    texts = ["abc", "this is TOO LONG", ""]
    with make_client() as client:
        full = client.embed_full(texts)
        one = client.embed_full("abcd")
    assert full.token_counts.tolist() == [3, 16, 0]
    assert full.token_counts.dtype == np.int32
    assert full.truncated.tolist() == [False, True, False]
    assert full.truncated.dtype == np.bool_
    assert one.vectors.shape == (DIMENSIONS,)
    assert one.token_counts.shape == one.truncated.shape == ()
    assert int(one.token_counts) == 4


def test_plain_calls_send_the_text_and_nothing_else(fake, make_client):
    with make_client() as client:
        client.embed(["a", "b"])
    (call,) = fake.calls
    assert call.shapes == {"TEXT": [2, 1]}
    assert set(call.parameters) == {"timeout"}


def test_prompt_instruction_class_and_headers_are_sent_when_given(fake, make_client):
    with make_client(headers={"Authorization": "Bearer e"}) as client:
        client.embed(["a", "b"], prompt_name="query", priority="bulk")
        client.embed(["a", "b", "c"], instruction="Find ü")
    first, second = fake.calls
    assert first.inputs["PROMPT_NAME"] == [b"query"] * 2
    assert first.shapes == {"TEXT": [2, 1], "PROMPT_NAME": [2, 1]}
    assert first.parameters["service_class"] == "bulk"
    assert first.metadata["authorization"] == "Bearer e"
    assert second.inputs["INSTRUCTION"] == ["Find ü".encode()] * 3
    assert second.shapes == {"TEXT": [3, 1], "INSTRUCTION": [3, 1]}
    assert "service_class" not in second.parameters


def test_each_attempt_carries_the_time_that_is_left(fake, make_client):
    fake.first.append(refuse(grpc.StatusCode.UNAVAILABLE, "overloaded: full", after_s=0.3))
    with make_client(retry=QUICK) as client:
        client.embed("a", timeout_s=9.0)
    first, second = fake.calls
    assert 4.0 < first.time_remaining_s < 9.2  # gRPC rounds the time on the wire up
    assert 4e6 < first.parameters["timeout"] <= 9e6
    assert second.time_remaining_s < first.time_remaining_s - 0.25
    assert second.parameters["timeout"] < first.parameters["timeout"] - 0.25e6


def test_overload_is_tried_again_until_it_passes(fake, make_client):
    texts = texts_of_many_lengths(30)
    fake.first.extend([refuse(grpc.StatusCode.UNAVAILABLE, "overloaded: queue full")] * 9)
    with make_client(retry=QUICK, max_texts_per_request=10) as client:
        assert np.array_equal(client.embed(texts), vectors_of(texts))
    assert len(fake.calls) == 3 + 9


def test_overload_for_ever_ends_typed_and_before_the_deadline(fake, make_client):
    fake.otherwise = refuse(grpc.StatusCode.UNAVAILABLE, "in ensemble 'm', overloaded: full")
    begin = time.monotonic()
    with (
        make_client(retry=RetryPolicy(initial_s=0.05, max_s=600.0)) as client,
        pytest.raises(ServerOverloaded, match=r"overloaded: full.*attempts: \d+"),
    ):
        client.embed("a", timeout_s=3.0)
    assert time.monotonic() - begin < 30  # a wait is not slept to its end past the deadline
    assert len(fake.calls) >= 2


def test_max_attempts_bounds_the_attempts(fake, make_client):
    fake.otherwise = refuse(grpc.StatusCode.UNAVAILABLE)
    retry = RetryPolicy(initial_s=0.001, max_attempts=3)
    with make_client(retry=retry) as client, pytest.raises(ModelUnavailable, match="attempts: 3"):
        client.embed("a")
    assert len(fake.calls) == 3


@pytest.mark.parametrize(
    "code",
    [
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.DEADLINE_EXCEEDED,
    ],
)
def test_other_failures_are_not_tried_again(fake, make_client, code):
    from lasttoken.statuses import ERROR_OF_STATUS

    fake.first.append(refuse(code, "because"))
    with make_client(retry=QUICK) as client, pytest.raises(ERROR_OF_STATUS[code]) as caught:
        client.embed("a")
    assert caught.value.status == code.name
    assert "because" in str(caught.value)
    assert MODEL in str(caught.value)
    assert len(fake.calls) == 1


def test_the_server_knows_rows_and_the_caller_reads_positions(fake, make_client):
    def refuse_longest(call, tensors):
        assert call.texts[1] == b"longer"
        call.context.abort(grpc.StatusCode.INVALID_ARGUMENT, "in ensemble 'm', text 1 is bad")

    fake.first.append(refuse_longest)
    with make_client() as client, pytest.raises(InvalidInput, match=r"text 1 is bad.*texts\[2\]"):
        client.embed(["a", "b", "longer", "the longest"])


def test_an_expired_deadline_reported_as_unavailable_is_not_tried_again(fake, make_client):
    message = "in ensemble 'm', deadline exceeded: waited too long"
    fake.first.append(refuse(grpc.StatusCode.UNAVAILABLE, message))
    with make_client(retry=QUICK) as client, pytest.raises(DeadlineExceeded, match="waited"):
        client.embed("a")
    assert len(fake.calls) == 1


def test_a_slow_server_ends_in_deadline_exceeded(fake, make_client):
    fake.otherwise = delay(60.0)
    begin = time.monotonic()
    with make_client() as client, pytest.raises(DeadlineExceeded):
        client.embed("a", timeout_s=0.2)
    assert 0.15 < time.monotonic() - begin < 30
    assert issubclass(DeadlineExceeded, TimeoutError)


def test_the_deadline_is_that_of_the_whole_call_not_of_each_request(fake, make_client):
    fake.otherwise = delay(0.15)
    begin = time.monotonic()
    with (
        make_client(max_texts_per_request=1, max_in_flight=1) as client,
        pytest.raises(DeadlineExceeded),
    ):
        client.embed([f"text {i}" for i in range(200)], timeout_s=0.5)  # 30 s of work
    assert time.monotonic() - begin < 20
    assert len(fake.calls) <= 4


def test_requests_in_flight_are_bounded_and_the_bound_is_used(fake, make_client):
    fake.otherwise = delay(0.03)
    with make_client(max_texts_per_request=1, max_in_flight=5) as client:
        client.embed([f"text {i}" for i in range(40)])
    assert fake.peak_in_flight == 5


def test_the_first_final_failure_cancels_the_rest(fake, make_client):
    def fail_when_all_are_there(call, tensors):
        assert fake.wait_until(lambda f: f.in_flight == 4)
        call.context.abort(grpc.StatusCode.INTERNAL, "engine failed")

    fake.first.append(fail_when_all_are_there)
    fake.otherwise = delay(60.0)
    begin = time.monotonic()
    with make_client(max_texts_per_request=1, max_in_flight=4) as client:
        with pytest.raises(ServerError, match="engine failed"):
            client.embed([f"text {i}" for i in range(12)])
        assert time.monotonic() - begin < 50
        assert fake.wait_until(lambda f: f.in_flight == 0 and f.cancelled == 3)
    assert len(fake.calls) == 4


def spoil(**changes):
    def action(call, tensors):
        for name, change in changes.items():
            setattr(tensors, name, change(getattr(tensors, name)) if callable(change) else change)

    return action


def nan_in_row_1(embedding):
    spoiled = embedding.copy()
    spoiled[1, 3] = np.nan
    return spoiled


@pytest.mark.parametrize(
    ("action", "error", "words"),
    [
        (spoil(embedding=lambda e: e[:-1]), ProtocolMismatch, r"shape \(2, 8\), expected \(3, D\)"),
        (spoil(embedding=lambda e: e[:, 0]), ProtocolMismatch, r"shape \(3,\)"),
        (spoil(embedding=lambda e: e.astype(np.float64)), ProtocolMismatch, "float64"),
        (spoil(embedding=None), ProtocolMismatch, "no output EMBEDDING"),
        (spoil(shape=[3, 9]), ProtocolMismatch, "unreadable EMBEDDING"),
        (spoil(token_count=None), ProtocolMismatch, "no output TOKEN_COUNT"),
        (spoil(token_count=lambda t: t[:, 0]), ProtocolMismatch, "TOKEN_COUNT of shape"),
        (spoil(token_count=lambda t: t.astype(np.int64)), ProtocolMismatch, "int64"),
        (spoil(truncated=None), ProtocolMismatch, "no output TRUNCATED"),
        (spoil(embedding=nan_in_row_1), ServerError, r"texts\[0\] holds NaN"),
        (spoil(embedding=lambda e: e * np.float32(np.inf)), ServerError, "infinity"),
    ],
)
def test_wrong_answers_are_refused(fake, make_client, action, error, words):
    fake.first.append(action)
    with make_client() as client, pytest.raises(error, match=words):
        client.embed(["ab", "abc", "a"])  # row 1 of the request is the second longest, texts[0]


def test_dimensions_that_change_within_a_call_are_refused(fake, make_client):
    fake.first.append(spoil(embedding=lambda e: e[:, :4]))
    with (
        make_client(max_texts_per_request=1, max_in_flight=1) as client,
        pytest.raises(ProtocolMismatch, match="8 dimensions after 4"),
    ):
        client.embed(["a", "b"])


def test_truncation_warns_where_the_caller_stands(make_client):
    with make_client() as client, pytest.warns(TruncationWarning, match=r"1 of 2.*positions 1"):
        client.embed(["short", "a text TOO LONG"])


def test_truncation_warning_names_the_callers_file(fake):
    with (
        EmbeddingClient(fake.url, MODEL) as client,
        warnings.catch_warnings(record=True) as caught,
    ):
        warnings.simplefilter("always")
        client.embed("TOO LONG")
    assert [warning.filename for warning in caught] == [__file__]


def test_truncation_can_be_ignored_or_an_error(make_client):
    with make_client(on_truncation="ignore") as client:
        assert client.embed("TOO LONG").shape == (DIMENSIONS,)
    with make_client(on_truncation="error") as client:
        with pytest.raises(InputTooLong):
            client.embed("TOO LONG")
        with pytest.raises(InputTooLong):
            client.embed_full(["TOO LONG"])
        assert client.embed("fine").shape == (DIMENSIONS,)
    with make_client() as client:
        client.embed_full("TOO LONG")  # says so in its answer and does not warn


@pytest.mark.parametrize(
    ("texts", "options", "words"),
    [
        (5, {}, "'int'"),
        (None, {}, "'NoneType'"),
        (b"bytes", {}, "'bytes'"),
        ({"a": 1}, {}, "'dict'"),
        ({"a"}, {}, "'set'"),
        ((text for text in "ab"), {}, "'generator'"),
        (["a", 5], {}, r"texts\[1\] is 5"),
        (["a", b"b"], {}, r"texts\[1\] is b'b'"),
        (["a", None], {}, r"texts\[1\] is None"),
        (["fine", "half \ud800 pair"], {}, r"texts\[1\] .*character 5"),
        ("\udfff", {}, "surrogate"),
        ("a", {"prompt_name": "query", "instruction": "find"}, "both prompt_name='query'"),
        ("a", {"prompt_name": 5}, "prompt_name is 5"),
        ("a", {"instruction": b"x"}, "instruction is b'x'"),
        ("a", {"instruction": "\ud800"}, "instruction cannot be written in UTF-8"),
        ("a", {"timeout_s": -1}, "timeout_s is -1"),
        ("a", {"timeout_s": 0}, "timeout_s is 0"),
        ("a", {"timeout_s": float("nan")}, "timeout_s is nan"),
        ("a", {"timeout_s": float("inf")}, "timeout_s is inf"),
        ("a", {"timeout_s": "5"}, "timeout_s is '5'"),
        ("a", {"timeout_s": True}, "timeout_s is True"),
        ("a", {"timeout_s": None}, "timeout_s is None"),
        ("a", {"priority": "urgent"}, "priority is 'urgent'"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_sent(
    fake, make_client, texts, options, words
):
    with make_client() as client, pytest.raises(InvalidInput, match=words) as caught:
        client.embed(texts, **options)
    assert isinstance(caught.value, ValueError)
    assert caught.value.status is None
    assert not fake.calls


def test_an_unknown_model_is_not_found(make_client):
    with make_client(model="nope") as client:
        with pytest.raises(ModelNotFound, match="nope"):
            client.embed("a")
        with pytest.raises(ModelNotFound):
            client.embed([])
        with pytest.raises(ModelNotFound):
            client.model_info()


def test_a_server_that_is_not_there_is_unavailable(make_client):
    with (
        make_client(url="127.0.0.1:1", retry=RetryPolicy(max_attempts=2)) as client,
        pytest.raises(ModelUnavailable, match=r"127\.0\.0\.1:1"),
    ):
        client.embed("a", timeout_s=5.0)


def test_a_server_that_comes_back_within_the_deadline_is_used(make_client):
    from unit.client.fake_triton import FakeTriton

    late = FakeTriton()
    with late.serve():
        port = int(late.url.rsplit(":", 1)[1])
    ready, stop = threading.Event(), threading.Event()

    def come_back() -> None:
        time.sleep(0.5)
        with late.serve(port):
            ready.set()
            stop.wait(20)

    thread = threading.Thread(target=come_back)
    thread.start()
    try:
        with make_client(url=f"127.0.0.1:{port}") as client:
            assert np.array_equal(client.embed("a", timeout_s=15.0), vector_of("a"))
        assert ready.is_set()
    finally:
        stop.set()
        thread.join()


def test_large_messages_pass_in_both_directions(fake, make_client):
    texts = ["x" * 900_000, *[f"{i}" + "y" * 150_000 for i in range(6)]]
    with make_client() as client:
        assert np.array_equal(client.embed(texts), vectors_of(texts))
    # 20 MB back in one message, far beyond gRPC's default of 4 MB
    fake.first.append(
        lambda call, tensors: setattr(
            tensors, "embedding", np.ones((len(call.texts), 5_000_000), np.float32)
        )
    )
    with make_client() as client:
        assert client.embed("a").shape == (5_000_000,)


def test_model_info_and_list(fake, make_client):
    fake.models = {"b_broken": "UNAVAILABLE", "a_tokenizer": "READY", MODEL: "READY"}
    with make_client() as client:
        info = client.model_info()
        models = client.list_models()
    assert (info.name, info.version, info.dimensions, info.ready) == (MODEL, "1", DIMENSIONS, True)
    assert [(m.name, m.ready, m.dimensions) for m in models] == [
        ("b_broken", False, None),
        (MODEL, True, DIMENSIONS),
    ]


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (None, None),
        ('{"precision": "fp16", "licence": {"id": "mit"}}',
         {"precision": "fp16", "licence": {"id": "mit"}}),
        ("{}", None),
        ("not JSON", None),
        ("[1]", None),
    ],
)  # fmt: skip
def test_the_card_comes_with_the_model(fake, make_client, written, read):
    fake.card = written
    with make_client() as client:
        assert client.model_info().card == read
        assert client.list_models()[0].card == read


def test_a_closed_client_says_so(make_client):
    client = make_client()
    with client:
        client.embed("a")
        client.close()
        with pytest.raises(InvalidInput, match="closed"):
            client.embed("a")
        with pytest.raises(InvalidInput, match="closed"):
            client.model_info()
        client.close()


def test_closing_ends_calls_of_other_threads(fake):
    fake.otherwise = delay(10.0)
    client = EmbeddingClient(fake.url, MODEL)
    caught = []

    def embed() -> None:
        try:
            client.embed("a")
        except RequestCancelled as error:
            caught.append(error)

    thread = threading.Thread(target=embed)
    thread.start()
    assert fake.wait_until(lambda f: f.in_flight == 1)
    client.close()
    thread.join(5.0)
    assert not thread.is_alive()
    assert len(caught) == 1


@pytest.mark.parametrize("texts", ["a", ["a", "b"]], ids=["one", "several"])
def test_closing_ends_a_call_that_waits_for_its_next_attempt(fake, texts):
    fake.otherwise = refuse(grpc.StatusCode.UNAVAILABLE, "overloaded: no room")
    client = EmbeddingClient(fake.url, MODEL, max_texts_per_request=1, retry=RetryPolicy(max_s=0.1))
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(client.embed, texts)
        assert fake.wait_until(lambda f: len(f.calls) >= 3)
        client.close()
        with pytest.raises(RequestCancelled):
            call.result(5.0)


def test_closing_between_the_connection_and_its_use_ends_a_question(fake, monkeypatch):
    client = EmbeddingClient(fake.url, MODEL)
    connect = client._connect

    def connect_and_close(server: int) -> object:
        connection = connect(server)
        client.close()
        return connection

    monkeypatch.setattr(client, "_connect", connect_and_close)
    with pytest.raises(RequestCancelled, match="closed during the call"):
        client.model_info()


@pytest.fixture
def slow_attribute(monkeypatch) -> None:
    """Other threads get their chance where tritonclient keeps the call that it has just begun."""
    from tritonclient.grpc import InferenceServerClient

    def keep(connection, call) -> None:
        connection.__dict__["kept_call"] = call
        time.sleep(0.0005)

    kept = property(lambda connection: connection.__dict__["kept_call"], keep)
    monkeypatch.setattr(InferenceServerClient, "_call_future", kept, raising=False)


def test_one_client_serves_many_threads_without_mixing_answers(fake, slow_attribute):
    wrong = []
    with EmbeddingClient(fake.url, MODEL, max_texts_per_request=1, max_in_flight=4) as client:

        def work(name: int) -> None:
            for turn in range(15):
                texts = [f"{name} {turn} {i}" for i in range(4)]
                if not np.array_equal(client.embed(texts, timeout_s=10.0), vectors_of(texts)):
                    wrong.append(name)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong
    assert len(fake.calls) == 16 * 15 * 4


def test_ctrl_c_ends_the_call_and_cancels_what_is_in_flight(fake):
    fake.otherwise = delay(10.0)

    def interrupt() -> None:
        fake.wait_until(lambda f: f.in_flight == 3)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    begin = time.monotonic()
    with EmbeddingClient(fake.url, MODEL, max_texts_per_request=1) as client:
        with pytest.raises(KeyboardInterrupt):
            client.embed(["a", "b", "c"])
        assert fake.wait_until(lambda f: f.cancelled == 3)
    assert time.monotonic() - begin < 5.0
    thread.join()


@pytest.mark.parametrize("after_s", [0.0, 0.1])
def test_ctrl_c_ends_a_call_with_one_request_and_the_client_closes(fake, after_s):
    fake.otherwise = delay(10.0)

    def interrupt() -> None:
        fake.wait_until(lambda f: f.in_flight == 1)
        time.sleep(after_s)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    begin = time.monotonic()
    with EmbeddingClient(fake.url, MODEL) as client:
        with pytest.raises(KeyboardInterrupt):
            client.embed("a")
        assert fake.wait_until(lambda f: f.cancelled == 1)
        fake.otherwise = answer
        assert np.array_equal(client.embed("b"), vector_of("b"))
    assert time.monotonic() - begin < 5.0
    thread.join()


def test_closing_ends_async_calls_with_one_request_and_with_several(fake):
    import asyncio

    fake.otherwise = delay(10.0)

    async def run() -> None:
        client = AsyncEmbeddingClient(fake.url, MODEL, max_texts_per_request=1)
        calls = [asyncio.create_task(client.embed(texts)) for texts in ("a", ["b", "c"])]
        while fake.in_flight < 3:
            await asyncio.sleep(0.005)
        await client.close()
        for call in calls:
            with pytest.raises(RequestCancelled):
                await asyncio.wait_for(call, 5.0)

    asyncio.run(run())


def test_closing_ends_async_calls_that_have_not_reached_the_channel_yet(fake):
    import asyncio

    async def run() -> None:
        client = AsyncEmbeddingClient(fake.url, MODEL, max_texts_per_request=1)
        await client.embed("connected")
        call = asyncio.create_task(client.embed(["a", "b"]))
        closing = asyncio.create_task(client.close())  # in the same turn of the loop
        with pytest.raises(RequestCancelled, match="closed during the call"):
            await call
        await closing

    asyncio.run(asyncio.wait_for(run(), 10.0))


def test_a_call_cancelled_before_its_requests_begin_leaves_nothing_behind(fake):
    import asyncio

    async def run() -> None:
        async with AsyncEmbeddingClient(fake.url, MODEL, max_texts_per_request=1) as client:
            await client.embed("connected")
            call = asyncio.create_task(client.embed(["a", "b"]))
            await asyncio.sleep(0)  # its requests are tasks by now, which have not run yet
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call

    gc.collect()  # what earlier tests left has its warnings out of the way
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        asyncio.run(run())
        gc.collect()
    assert [str(warning.message) for warning in caught] == []


def test_closing_ends_an_async_question_as_it_ends_a_call():
    """Nobody cancelled the task, so it must not look cancelled."""
    import asyncio

    class Slow(FakeTriton):
        asked, go_on = threading.Event(), threading.Event()

        def ModelMetadata(self, request, context):  # noqa: N802
            self.asked.set()
            self.go_on.wait(20)
            return super().ModelMetadata(request, context)

    async def run(fake: Slow) -> None:
        client = AsyncEmbeddingClient(fake.url, MODEL)
        question = asyncio.create_task(client.model_info())
        while not fake.asked.is_set():
            await asyncio.sleep(0.005)
        await client.close()
        with pytest.raises(RequestCancelled, match="closed during the call"):
            await question
        fake.go_on.set()

    with Slow().serve() as fake:
        asyncio.run(asyncio.wait_for(run(fake), 10.0))


def test_cancelling_the_task_of_one_request_is_no_error_of_ours(fake):
    import asyncio

    fake.otherwise = delay(10.0)

    async def run() -> None:
        async with AsyncEmbeddingClient(fake.url, MODEL) as client:
            call = asyncio.create_task(client.embed("a"))
            while fake.in_flight < 1:
                await asyncio.sleep(0.005)
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(call, 0.01)
            while not fake.cancelled:
                await asyncio.sleep(0.005)

    asyncio.run(asyncio.wait_for(run(), 10.0))


@pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio does not tell whose end it was")
def test_a_task_that_was_cancelled_stays_so_when_the_client_is_closed_too(fake):
    import asyncio

    fake.otherwise = delay(10.0)

    async def run() -> None:
        client = AsyncEmbeddingClient(fake.url, MODEL)
        call = asyncio.create_task(client.embed("a"))
        while fake.in_flight < 1:
            await asyncio.sleep(0.005)
        call.cancel()
        await client.close()
        with pytest.raises(asyncio.CancelledError):
            await call

    asyncio.run(asyncio.wait_for(run(), 10.0))


async def _cancel_soon(fake) -> None:
    import asyncio

    async with AsyncEmbeddingClient(fake.url, MODEL, max_texts_per_request=1) as client:
        task = asyncio.create_task(client.embed(["a", "b", "c"]))
        while fake.in_flight < 3:
            await asyncio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await client.embed_full("still usable", timeout_s=60.0)).vectors.shape == (8,)


def test_cancelling_the_task_cancels_what_is_in_flight(fake):
    import asyncio

    fake.first.extend([delay(10.0)] * 3)
    asyncio.run(_cancel_soon(fake))
    assert fake.cancelled == 3


def test_many_async_calls_share_one_client(fake):
    import asyncio

    async def run() -> None:
        async with AsyncEmbeddingClient(fake.url, MODEL) as client:
            texts = [f"text {i}" for i in range(200)]
            rows = await asyncio.gather(*(client.embed(text) for text in texts))
            assert np.array_equal(np.stack(rows), vectors_of(texts))

    asyncio.run(run())

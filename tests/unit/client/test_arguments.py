"""What a caller may give, and what each mistake is called, before anything is sent."""

from __future__ import annotations

import collections
import socket
import threading
import time

import numpy as np
import pytest

from lasttoken import (
    ClientOptions,
    EmbeddingClient,
    InvalidInput,
    KeepAlive,
    ModelUnavailable,
    RetryPolicy,
)
from unit.client.fake_triton import DIMENSIONS, FakeTriton, vectors_of

TEXTS = ["first", "second", "third"]


@pytest.mark.parametrize(
    "form",
    [
        tuple,
        np.array,
        collections.deque,
        lambda texts: np.array(texts, dtype=object),
        lambda texts: dict(enumerate(texts)).values(),
    ],
)
def test_whatever_is_a_list_of_texts_is_taken(make_client, form):
    with make_client() as client:
        assert np.array_equal(client.embed(form(TEXTS)), vectors_of(TEXTS))


@pytest.mark.parametrize("index", [[0, 1, 2], [7, 5, 6]])
def test_a_column_of_pandas_is_taken_in_its_order(make_client, index):
    pandas = pytest.importorskip("pandas")
    column = pandas.Series(TEXTS, index=index)
    with make_client() as client:
        assert np.array_equal(client.embed(column), vectors_of(TEXTS))
        assert np.array_equal(list(client.embed_iter(column)), vectors_of(TEXTS))


def test_a_table_is_refused_and_its_column_names_are_not_embedded(fake, make_client):
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"body": TEXTS})
    with make_client() as client:
        for call in (client.embed, client.encode, lambda texts: list(client.embed_iter(texts))):
            with pytest.raises(InvalidInput, match=r"is a table.* give one of its columns"):
                call(table)
    assert not fake.calls


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        ((text for text in TEXTS), "'generator'; give .*; embed_iter takes whatever yields"),
        (np.array("first"), "type 'ndarray'; give a string or a list of strings$"),
        (np.array([TEXTS]), r"texts\[0\] is array\("),
        ([b"x" * 10**7], "of type 'bytes'; give a string$"),
        ([["x" * 1000]], "of type 'list'; give a string$"),
    ],
)
def test_what_is_no_list_of_texts_is_named_in_few_words(make_client, texts, words):
    with make_client() as client, pytest.raises(InvalidInput, match=words) as raised:
        client.embed(texts)
    assert len(str(raised.value)) < 200


@pytest.mark.parametrize("timeout_s", [1e10, 1e30, np.float32(30), np.int64(30)])
def test_a_time_that_grpc_cannot_count_is_long_and_not_over_at_once(fake, make_client, timeout_s):
    with make_client() as client:
        assert np.array_equal(client.embed(TEXTS, timeout_s=timeout_s), vectors_of(TEXTS))
        assert client.model_info(timeout_s=timeout_s).dimensions == DIMENSIONS
    assert 20 < fake.calls[0].time_remaining_s < 366 * 24 * 3600


def test_a_request_has_no_more_texts_than_a_model_takes(fake, make_client):
    texts = [f"text {i}" for i in range(600)]
    with make_client(max_texts_per_request=1000) as client:
        assert np.array_equal(client.embed(texts), vectors_of(texts))
        assert np.array_equal(client.encode(texts, batch_size=np.int64(1024)), vectors_of(texts))
    assert [len(call.texts) for call in fake.calls].count(256) == 4
    assert max(len(call.texts) for call in fake.calls) == 256


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("::1", "[::1]:8001"),
        ("fe80::1:2", "[fe80::1:2]:8001"),
        ("[::1]", "[::1]:8001"),
        ("[::1]:9", "[::1]:9"),
        ("host", "host:8001"),
        ("host:65535", "host:65535"),
        ("dns:///host", "dns:///host:8001"),
        ("dns:///host:9", "dns:///host:9"),
    ],
)
def test_an_address_is_completed(url, target):
    assert ClientOptions(url=url).addresses == (target,)


@pytest.mark.parametrize("port", ["99999", "0", "http", "", "-1", "80 01", "٨٠"])
@pytest.mark.parametrize("host", ["host", "[::1]", "dns:///host"])
def test_a_port_that_is_none_is_refused(host, port):
    # gRPC would go to another port without a word: 99999 is 34463 for it.
    with pytest.raises(InvalidInput, match="is not a number from 1 to 65535"):
        ClientOptions(url=f"{host}:{port}")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"model": 5}, "model is 5; it must be the name"),
        ({"model": None}, "model is None; it must be the name"),
        ({"retry": 3}, "retry is 3; give a lasttoken.RetryPolicy"),
        ({"keepalive": 30}, "keepalive is 30; give a lasttoken.KeepAlive"),
        ({"tls": True}, "tls is True; give a lasttoken.Tls"),
        ({"headers": [("a", "b")]}, "of type 'list'; give a mapping"),
        ({"headers": {"two words": "x"}}, "'two words' has no valid name"),
        ({"headers": {"": "x"}}, "'' has no valid name"),
        ({"headers": {5: "x"}}, "5 has no valid name"),
        ({"headers": {"x-user": "\xe9"}}, "'x-user' is of type 'str' or holds characters"),
        ({"headers": {"x-user": "a\nb"}}, "'x-user' is of type 'str' or holds characters"),
        ({"headers": {"x-user": b"a"}}, "'x-user' is of type 'bytes' or holds"),
        ({"headers": {"x-user": 5}}, "'x-user' is of type 'int' or holds"),
        ({"headers": {"x-bin": "a"}}, "'x-bin' is binary by its name"),
    ],
)
def test_a_setting_of_a_wrong_kind_is_refused_where_it_is_made(settings, words):
    with pytest.raises(InvalidInput, match=words):
        EmbeddingClient(**settings)


def test_the_value_of_a_header_is_not_shown():
    with pytest.raises(InvalidInput) as raised:
        EmbeddingClient(headers={"authorization": "Bearer s3cret\n"})
    assert "s3cret" not in str(raised.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"initial_s": "1"},
        {"max_s": None},
        {"multiplier": "2"},
        {"max_attempts": 1.5},
        {"max_attempts": True},
        {"max_attempts": "3"},
    ],
)
def test_a_retry_policy_of_wrong_types_is_refused(settings):
    (name,) = settings
    with pytest.raises(InvalidInput, match=f"RetryPolicy.{name} is "):
        RetryPolicy(**settings)


def test_settings_of_the_right_kinds_are_taken():
    options = ClientOptions(
        retry=RetryPolicy(max_attempts=None),
        keepalive=KeepAlive(),
        headers={"X-User": "a b", "x.y_z-1": ""},
    )
    assert dict(options.headers) == {"x-user": "a b", "x.y_z-1": ""}


@pytest.mark.parametrize(
    "ranges",
    [
        np.full((2, DIMENSIONS), np.nan),
        np.array([[-np.inf] * DIMENSIONS, [1.0] * DIMENSIONS]),
        np.array([[1.0] * DIMENSIONS, [-1.0] * DIMENSIONS]),
    ],
)
def test_ranges_that_are_none_are_refused(fake, make_client, ranges):
    with make_client() as client, pytest.raises(InvalidInput, match="ranges hold NaN"):
        client.embed(TEXTS, output_dtype="int8", ranges=ranges)
    assert not fake.calls


def test_a_call_waits_for_what_it_must_know_of_the_model_as_for_its_requests(make_client):
    """A caller may start before its server."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    stop = threading.Event()

    def serve_later():
        time.sleep(0.5)
        with FakeTriton().serve(port):
            stop.wait(30)

    server = threading.Thread(target=serve_later)
    server.start()
    try:
        with make_client(url=f"127.0.0.1:{port}") as client:
            assert client.embed([], timeout_s=20).shape == (0, DIMENSIONS)
        with (
            make_client(url="127.0.0.1:1", retry=RetryPolicy(max_attempts=3)) as client,
            pytest.raises(ModelUnavailable, match="attempts: 3"),
        ):
            client.embed([], timeout_s=60)
    finally:
        stop.set()
        server.join()

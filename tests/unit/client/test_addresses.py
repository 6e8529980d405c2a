"""Several servers behind one client: turns, and what happens when one is gone."""

from __future__ import annotations

import socket
import threading
import time

import grpc
import numpy as np
import pytest

from lasttoken import (
    AsyncEmbeddingClient,
    EmbeddingClient,
    InvalidInput,
    LasttokenError,
    ModelUnavailable,
    RetryPolicy,
    rotation,
)
from lasttoken.rotation import Rotation
from unit.client.fake_triton import MODEL, FakeTriton, delay, refuse, vectors_of

TEXTS = [f"text {i}" for i in range(40)]


@pytest.fixture
def other():
    with FakeTriton().serve() as server:
        yield server


def closed_ports(count: int) -> list[int]:
    """Ports where nobody listens; no two are the same."""
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def closed_port() -> int:
    return closed_ports(1)[0]


@pytest.mark.parametrize("form", [list, ",".join, ", ".join, tuple])
def test_requests_take_turns(fake, other, make_client, form):
    with make_client(form([fake.url, other.url]), max_texts_per_request=2) as client:
        assert np.array_equal(client.embed(TEXTS), vectors_of(TEXTS))
        assert (len(fake.calls), len(other.calls)) == (10, 10)
        for _ in range(4):
            client.embed("one")  # across calls, too
        assert (len(fake.calls), len(other.calls)) == (12, 12)


def test_an_address_where_nobody_is_fails_no_call(fake, make_client):
    dead = f"127.0.0.1:{closed_port()}"
    one_try = RetryPolicy(max_attempts=1)
    with make_client([dead, fake.url], max_texts_per_request=2, retry=one_try) as client:
        begin = time.monotonic()
        for _ in range(5):
            assert np.array_equal(client.embed(TEXTS), vectors_of(TEXTS))
        assert client.model_info().dimensions == 8
        assert time.monotonic() - begin < 3.0


def test_a_new_client_does_not_hear_of_an_earlier_ones_failures(make_client):
    """gRPC's channels share connections, and with them the wait after a failed attempt."""
    port = closed_port()
    with make_client(f"127.0.0.1:{port}") as earlier:
        for _ in range(4):  # each attempt lengthens the wait until the next
            with pytest.raises(LasttokenError):
                earlier.embed(["a"], timeout_s=0.5)
        with FakeTriton().serve(port) as server, make_client(server.url) as client:
            assert client.model_info().dimensions == 8


def test_a_server_that_dies_in_mid_call_fails_no_call(fake, make_client):
    """Its requests go to the other one at once; when it is back it gets its share again."""
    fake.otherwise = delay(0.02)
    dying = FakeTriton()
    one_try = RetryPolicy(max_attempts=1)
    with dying.serve():
        url = dying.url
        client = make_client([url, fake.url], max_texts_per_request=1, retry=one_try)
        assert np.array_equal(client.embed(TEXTS), vectors_of(TEXTS))
        assert dying.calls
        dying.otherwise = delay(30.0)  # these will be lost with it

        answers = []
        caller = threading.Thread(target=lambda: answers.append(client.embed(TEXTS)))
        if hasattr(client, "_runner"):  # an event loop belongs to one thread
            threading.Timer(0.3, dying.stop).start()
            answers.append(client.embed(TEXTS))
        else:
            caller.start()
            assert dying.wait_until(lambda f: f.in_flight > 0)
            dying.stop()
            caller.join()
    assert np.array_equal(answers[0], vectors_of(TEXTS))
    begin = time.monotonic()
    assert np.array_equal(client.embed(TEXTS), vectors_of(TEXTS))
    assert time.monotonic() - begin < 5.0
    back = FakeTriton()
    with back.serve(port=int(url.rpartition(":")[2])):
        end = time.monotonic() + 20
        while not back.calls and time.monotonic() < end:
            client.embed(TEXTS)
        assert back.calls
    client.__exit__(None, None, None)


def test_calls_reset_by_a_stopping_server_go_to_the_other_one(
    fake, other, make_client, monkeypatch
):
    """It answers CANCELLED for what it has not begun, though nobody cancelled it."""
    for name in ("_FIRST_REST_S", "_LONGEST_REST_S"):
        monkeypatch.setattr(rotation, name, 600.0)
    fake.otherwise = refuse(grpc.StatusCode.CANCELLED, "CANCELLED")
    one_try = RetryPolicy(max_attempts=1)
    with make_client([fake.url, other.url], max_texts_per_request=2, retry=one_try) as client:
        assert np.array_equal(client.embed(TEXTS), vectors_of(TEXTS))
        asked = len(fake.calls)
        assert asked
        assert np.array_equal(client.embed(TEXTS), vectors_of(TEXTS))
        assert len(fake.calls) == asked, "it rests"
    with make_client(fake.url, retry=RetryPolicy(max_attempts=3, initial_s=0.01)) as client:
        with pytest.raises(ModelUnavailable, match="attempts: 3"):
            client.embed("a")
        fake.first.append(fake.otherwise)
        fake.otherwise = delay(0.0)
        assert np.array_equal(client.embed("a"), vectors_of(["a"])[0])


def test_when_all_are_gone_the_call_says_so(make_client):
    dead = [f"127.0.0.1:{port}" for port in closed_ports(2)]
    with make_client(dead, retry=RetryPolicy(max_attempts=3, initial_s=0.01)) as client:
        with pytest.raises(ModelUnavailable, match="attempts: 3"):
            client.embed("a")
        with pytest.raises(ModelUnavailable):
            client.model_info()


def test_an_overloaded_server_is_not_left_out(fake, other, make_client):
    fake.first.extend([refuse(grpc.StatusCode.UNAVAILABLE, "overloaded: full")] * 3)
    with make_client(
        [fake.url, other.url], max_texts_per_request=2, retry=RetryPolicy(initial_s=0.005)
    ) as client:
        assert np.array_equal(client.embed(TEXTS), vectors_of(TEXTS))
    assert len(fake.calls) >= 8


def test_dns_names_are_left_to_grpc(fake, make_client):
    port = fake.url.rpartition(":")[2]
    with make_client(f"dns:///localhost:{port}") as client:
        assert np.array_equal(client.embed(TEXTS), vectors_of(TEXTS))


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("a,b:9", ("a:8001", "b:9")),
        (["[::1]", "a"], ("[::1]:8001", "a:8001")),
        ("dns:///embed.svc", ("dns:///embed.svc:8001",)),
        ("dns:///embed.svc:9", ("dns:///embed.svc:9",)),
    ],
)
def test_addresses_are_completed(given, used):
    assert EmbeddingClient(given).options.addresses == used
    assert AsyncEmbeddingClient(given).options.url == ",".join(used)


@pytest.mark.parametrize("given", [[], "a,,b", ["a", 5], "a,a:8001", "https://a", "dns:///", b"a"])
def test_what_is_no_address_is_refused(given):
    with pytest.raises(InvalidInput, match="url is"):
        EmbeddingClient(given)


def test_turns_without_failures_are_even():
    rotation = Rotation(3)
    assert [rotation.take(0.0) for _ in range(7)] == [0, 1, 2, 0, 1, 2, 0]


def test_an_unreachable_server_rests_longer_each_time_and_is_tried_by_one_request():
    rotation = Rotation(2)
    assert rotation.take(0.0) == 0
    assert rotation.unreachable(0, 0.0)
    assert rotation.unreachable(0, 0.0)  # lost together with the first: one failure
    assert [rotation.take(0.9) for _ in range(3)] == [1, 1, 1]
    assert sorted(rotation.take(1.1) for _ in range(4)) == [0, 1, 1, 1]
    assert rotation.unreachable(0, 1.2)  # rests two seconds now
    assert [rotation.take(3.1) for _ in range(2)] == [1, 1]
    assert 0 in [rotation.take(3.3) for _ in range(2)]
    rotation.reached(0)
    assert sorted(rotation.take(3.4) for _ in range(4)) == [0, 0, 1, 1]


def test_when_none_is_left_the_one_that_rests_least_is_asked():
    rotation = Rotation(2)
    assert rotation.unreachable(0, 0.0)
    assert not rotation.unreachable(1, 0.5)
    assert rotation.take(0.6) == 0


def test_a_question_about_no_model_names_the_server_and_one_about_a_model_names_that(make_client):
    with make_client("127.0.0.1:1") as client:
        for ask in (client.server_info, client.list_models):
            with pytest.raises(ModelUnavailable, match=r"^127\.0\.0\.1:1: "):
                ask(timeout_s=5)
        with pytest.raises(ModelUnavailable, match=f"^{MODEL}: "):
            client.model_info(timeout_s=5)

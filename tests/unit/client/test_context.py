"""What goes along with a call besides texts: traces, tokens; and what a fork leaves."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from opentelemetry import baggage, context, trace
from opentelemetry.sdk.trace import TracerProvider

from lasttoken import AsyncEmbeddingClient, EmbeddingClient, InvalidInput, KeepAlive, Tls
from lasttoken.channel import channel_arguments
from unit.client.fake_triton import MODEL, vector_of


def test_the_callers_trace_goes_to_the_server(fake, make_client):
    tracer = TracerProvider().get_tracer("test")
    with make_client() as client:
        with tracer.start_as_current_span("search") as span:
            attached = context.attach(baggage.set_baggage("tenant", "a"))
            client.embed("a")
            context.detach(attached)
        client.embed("b")
    inside, outside = fake.calls
    trace_id = trace.format_trace_id(span.get_span_context().trace_id)
    span_id = trace.format_span_id(span.get_span_context().span_id)
    assert re.fullmatch(rf"00-{trace_id}-{span_id}-0[13]", inside.metadata["traceparent"])
    assert inside.metadata["baggage"] == "tenant=a"
    assert "traceparent" not in outside.metadata


def test_opentelemetry_is_not_loaded_for_who_does_not_use_it(fake):
    program = f"""
        import sys
        from lasttoken import EmbeddingClient
        with EmbeddingClient({fake.url!r}, {MODEL!r}) as client:
            client.embed("a")
        print([name for name in sys.modules if name.startswith("opentelemetry")])
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_a_bearer_token_may_change(fake, make_client):
    tokens = iter(["first", "second", "third"])
    with make_client(token="fixed") as client:
        client.embed("a")
        client.model_info()
    with make_client(token=lambda: next(tokens)) as client:
        client.embed("a")
        client.embed("b")
    sent = [call.metadata["authorization"] for call in fake.calls]
    assert sent == ["Bearer fixed", "Bearer first", "Bearer second"]


@pytest.mark.parametrize("token", ["", "two\nlines", "ümlaut", 5, b"x"])
def test_tokens_that_no_header_can_carry_are_refused_and_not_shown(fake, token):
    for given in (token, lambda: token):
        with pytest.raises(InvalidInput, match="token is of type") as caught:
            EmbeddingClient(fake.url, MODEL, token=given).embed("a")
        assert "lines" not in str(caught.value)
    assert not fake.calls


def test_secrets_are_not_in_a_repr():
    client = EmbeddingClient(token="s3cret", tls=Tls())
    assert "s3cret" not in repr(client.options)
    client = EmbeddingClient(headers={"x-key": "s3cret"})
    assert "s3cret" not in repr(client.options)
    with pytest.raises(InvalidInput, match="give one"):
        EmbeddingClient(token="a", headers={"Authorization": "b"})


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda tmp: Tls(certificate_chain=b"-----BEGIN"), "together"),
        (
            lambda tmp: Tls(root_certificates=tmp / "missing.pem"),
            "root_certificates cannot be read",
        ),
        (lambda tmp: Tls(root_certificates=b"nothing"), "not PEM"),
        (lambda tmp: EmbeddingClient(tls=True), "give a lasttoken.Tls"),
        (lambda tmp: KeepAlive(interval_s=0), "interval_s is 0"),
        (lambda tmp: KeepAlive(timeout_s=float("nan")), "timeout_s is nan"),
    ],
)
def test_wrong_security_settings_are_refused_where_they_are_made(tmp_path, make, words):
    with pytest.raises(InvalidInput, match=words):
        make(tmp_path)


def test_keepalive_reaches_the_channel(fake):
    keepalive = KeepAlive(interval_s=7.5, timeout_s=2.0, without_calls=True)
    with EmbeddingClient(fake.url, MODEL, keepalive=keepalive) as client:
        arguments = dict(channel_arguments(client.options))
        assert np.array_equal(client.embed("a"), vector_of("a"))
    assert arguments["grpc.keepalive_time_ms"] == 7500
    assert arguments["grpc.keepalive_timeout_ms"] == 2000
    assert arguments["grpc.keepalive_permit_without_calls"] == 1
    assert "grpc.keepalive_time_ms" not in dict(channel_arguments(EmbeddingClient().options))


FORK = """
    import asyncio, multiprocessing, os, sys, threading
    import numpy as np
    from lasttoken import AsyncEmbeddingClient, EmbeddingClient

    url, model = {url!r}, {model!r}
    client = EmbeddingClient(url, model)
    idle = AsyncEmbeddingClient(url, model)
    before = client.embed("a")
    parents = dict(client._connections)

    def in_child():
        assert not client._connections  # none of the parent's
        assert np.array_equal(client.embed("a", timeout_s=20), before)
        assert client._connections[0] is not parents[0]
        async def run():
            return await idle.embed("a", timeout_s=20)
        assert np.array_equal(asyncio.run(run()), before)

    client._lock.acquire()  # as a thread of the parent may hold it at the moment of the fork
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            in_child()
            code = 0
        finally:
            os._exit(code)
    client._lock.release()
    assert os.waitpid(pid, 0)[1] == 0
    assert np.array_equal(client.embed("a"), before)  # the parent's connection is still good
    assert client._connections[0] is parents[0]
    with multiprocessing.get_context("fork").Pool(2) as pool:
        vectors = pool.map(client.embed, ["a", "a", "a"])
    assert all(np.array_equal(v, before) for v in vectors)
    print("fine")
"""


def test_the_child_of_a_fork_has_connections_of_its_own(fake):
    program = textwrap.dedent(FORK.format(url=fake.url, model=MODEL))
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120
    )
    assert done.stdout.strip() == "fine", done.stderr


def test_an_async_client_in_another_event_loop_says_whose_it_is(fake):
    client = AsyncEmbeddingClient(fake.url, MODEL)
    assert asyncio.run(client.embed("a")).shape == vector_of("a").shape
    for texts in ("a", ["a"] * 200):
        with pytest.raises(InvalidInput, match="belongs to the event loop of its first call"):
            asyncio.run(client.embed(texts))
    asyncio.run(client.close())

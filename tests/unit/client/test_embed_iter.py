"""`embed_iter` and `embed_blocks`: any iterable in, rows in order, bounded reading ahead."""

from __future__ import annotations

import asyncio
import itertools
import random

import grpc
import numpy as np
import pytest

from lasttoken import AsyncEmbeddingClient, EmbeddingClient, InvalidInput, RetryPolicy, ServerError
from lasttoken.plan import _MOST_BLOCKS
from unit.client.fake_triton import DIMENSIONS, MODEL, delay, refuse, vector_of, vectors_of

QUICK = RetryPolicy(initial_s=0.005, max_s=0.02)


def texts_of_many_lengths(count):
    draw = random.Random(5)
    return [f"{i} " + "x" * draw.choice([0, 3, 40, 700]) for i in range(count)]


def test_vectors_come_in_order_one_by_one(fake, make_client):
    texts = texts_of_many_lengths(500)
    fake.first.extend(delay(0.002 * ((7 * i) % 20)) for i in range(20))
    with make_client(max_texts_per_request=16) as client:
        rows = list(client.embed_iter((text for text in texts), block_texts=64))
    assert len(rows) == 500
    assert rows[0].shape == (DIMENSIONS,)
    assert np.array_equal(np.stack(rows), vectors_of(texts))
    assert {call.parameters["service_class"] for call in fake.calls} == {"bulk"}
    # The texts of a request are neighbours in length among those of their block.
    for call in fake.calls:
        lengths = [len(text) for text in call.texts]
        assert lengths == sorted(lengths, reverse=True)


def test_blocks_carry_token_counts_and_truncation(make_client):
    texts = ["ab", "TOO LONG", *(f"text {i}" for i in range(20))]
    with make_client() as client:
        blocks = list(client.embed_blocks(iter(texts), block_texts=8))
    assert sum(len(block.vectors) for block in blocks) == len(texts)
    counts = np.concatenate([block.token_counts for block in blocks])
    assert counts.tolist() == [len(text) for text in texts]
    assert np.concatenate([block.truncated for block in blocks]).nonzero()[0].tolist() == [1]


@pytest.mark.parametrize("empty", [[], (), iter(())])
def test_nothing_in_gives_nothing_out(fake, make_client, empty):
    with make_client() as client:
        assert list(client.embed_iter(empty)) == []
    assert not fake.calls


def test_it_reads_a_bounded_number_ahead_however_long_the_source(make_client):
    read = itertools.count()
    given = 0

    def endless():
        while True:
            yield f"text {next(read)}"

    with make_client(max_texts_per_request=4) as client:
        rows = client.embed_iter(endless(), block_texts=8)
        for row in itertools.islice(rows, 200):
            assert np.array_equal(row, vector_of(f"text {given}"))
            given += 1
            ahead = next(read) - given  # a number that the source leaves out, which is ours
            assert ahead <= 8 * (_MOST_BLOCKS + 2) + 200
            break
        rows.close()
    assert next(read) <= 8 * (_MOST_BLOCKS + 2)


def test_requests_overlap_across_blocks(fake, make_client):
    fake.otherwise = delay(0.05)
    with make_client(max_texts_per_request=1, max_in_flight=8) as client:
        assert len(list(client.embed_iter((f"{i}" for i in range(48)), block_texts=2))) == 48
    assert fake.peak_in_flight >= 5  # a block alone has two requests


def test_leaving_the_loop_cancels_what_is_in_flight(fake, make_client):
    def hold_all_but_the_first(call, tensors):
        if call.texts == [b"text 0"]:
            assert fake.wait_until(lambda f: f.in_flight >= 2)
        else:
            delay(20.0)(call, tensors)

    fake.otherwise = hold_all_but_the_first
    with make_client(max_texts_per_request=1) as client:
        rows = client.embed_iter((f"text {i}" for i in range(100)), block_texts=1)
        next(rows)
        begun = fake.in_flight
        rows.close()
        assert fake.wait_until(lambda f: f.in_flight == 0 and f.cancelled >= begun)
    assert begun >= 1


def test_errors_name_the_position_in_the_whole(fake, make_client):
    def texts(bad):
        yield from (f"text {i}" for i in range(20))
        yield bad

    with make_client() as client:
        with pytest.raises(InvalidInput, match=r"texts\[20\] is 5"):
            list(client.embed_iter(texts(5), block_texts=8))

        def refuse_some(call, tensors):
            if b"bad" in call.texts:
                row = call.texts.index(b"bad")
                call.context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"text {row} is bad")

        fake.otherwise = refuse_some
        with pytest.raises(InvalidInput, match=r"in this call that is texts\[20\]"):
            list(client.embed_iter(texts("bad"), block_texts=8))


def test_an_error_of_the_source_reaches_the_caller(make_client):
    def texts():
        yield "a"
        raise OSError("disk gone")

    with make_client() as client, pytest.raises(OSError, match="disk gone"):
        list(client.embed_iter(texts(), block_texts=1))


def test_a_refused_request_is_sent_again_and_a_failed_one_ends_it(fake, make_client):
    texts = [f"text {i}" for i in range(40)]
    fake.first.extend([refuse(grpc.StatusCode.UNAVAILABLE, "overloaded: full")] * 5)
    with make_client(retry=QUICK, max_texts_per_request=4) as client:
        rows = list(client.embed_iter(iter(texts), block_texts=8))
        assert np.array_equal(np.stack(rows), vectors_of(texts))
        fake.first.append(refuse(grpc.StatusCode.INTERNAL, "engine failed"))
        with pytest.raises(ServerError, match="engine failed"):
            list(client.embed_iter(iter(texts)))


def test_the_time_is_for_each_request_and_not_for_all(fake, make_client):
    fake.otherwise = delay(0.1)
    with make_client(max_texts_per_request=1, max_in_flight=1) as client:
        assert len(list(client.embed_iter(list("abcdefgh"), timeout_s=60.0))) == 8
    assert min(call.parameters["timeout"] for call in fake.calls) > 59.5e6  # the last after 0.7 s


@pytest.mark.parametrize(
    ("texts", "options", "words"),
    [
        ("a text", {}, "one string"),
        (b"bytes", {}, "'bytes'"),
        ({"a": 1}, {}, "'dict'"),
        (5, {}, "'int'"),
        (["a"], {"block_texts": 0}, "block_texts is 0"),
        (["a"], {"timeout_s": 0}, "timeout_s is 0"),
        (["a"], {"output_dtype": "int8"}, "without ranges"),
        (["a"], {"output_dtype": "int4"}, "output_dtype is 'int4'"),
    ],
)
def test_bad_arguments_are_refused_at_the_call(fake, texts, options, words):
    client = EmbeddingClient(fake.url, MODEL)
    for call in (client.embed_iter, client.embed_blocks):
        with pytest.raises(InvalidInput, match=words):
            call(texts, **options)
    client.close()


def test_the_sync_client_does_not_take_async_iterables(fake):
    async def texts():
        yield "a"

    with EmbeddingClient(fake.url, MODEL) as client, pytest.raises(InvalidInput, match="async_gen"):
        client.embed_iter(texts())


def test_async_iterables_and_slow_sources(fake):
    """A text is sent when it comes, without waiting for a block to be full."""

    async def run() -> None:
        go_on = asyncio.Event()

        async def texts():
            yield "first"
            await go_on.wait()
            yield "second"

        async with AsyncEmbeddingClient(fake.url, MODEL) as client:
            rows = client.embed_iter(texts())
            first = await asyncio.wait_for(anext(rows), 5)
            assert np.array_equal(first, vector_of("first"))
            go_on.set()
            assert np.array_equal(await anext(rows), vector_of("second"))
            with pytest.raises(StopAsyncIteration):
                await anext(rows)

            async def failing():
                yield "a"
                raise OSError("queue gone")

            with pytest.raises(OSError, match="queue gone"):
                async for _ in client.embed_iter(failing()):
                    pass

    asyncio.run(run())

"""Servers that refuse, die, come back, or are not what they were."""

from __future__ import annotations

import json
import threading

import grpc
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lasttoken import InvalidInput, LasttokenError, ModelNotFound, ModelUnavailable, ServerError
from lasttoken.corpus import embed_corpus, engine
from lasttoken.corpus.engine import BLOCKS_AHEAD
from lasttoken.corpus.in_flight import InFlightLimit
from unit.client.fake_triton import FakeTriton, answer, delay, refuse, vector_of
from unit.corpus.conftest import CARD, check_output, some_rows

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


def test_refusals_of_an_overloaded_server_are_retried_with_fewer_requests(options, fake, tmp_path):
    table = some_rows(3000)
    most = 4

    def overloaded_above(call, tensors):
        if fake.in_flight > most:
            refuse(UNAVAILABLE, "overloaded: the queue is full")(call, tensors)
        delay(0.01)(call, tensors)

    fake.otherwise = overloaded_above
    embed_corpus(options(table))
    check_output(tmp_path / "out", table)
    assert max(len(call.texts) for call in fake.calls) <= 64


def test_no_more_requests_at_a_time_than_allowed(options, fake):
    fake.otherwise = delay(0.01)
    embed_corpus(options(some_rows(2000), max_in_flight=3, max_texts_per_request=20))
    assert fake.peak_in_flight == 3
    assert max(len(call.texts) for call in fake.calls) == 20


def test_reading_waits_for_the_servers(options, fake, monkeypatch):
    """However slow the servers: a fixed number of blocks is in memory."""
    read, written = [], []

    def counted(*arguments):
        for block in read_blocks(*arguments):
            read.append(block.first_row)
            assert len(read) - len(written) <= BLOCKS_AHEAD + 1
            yield block

    read_blocks, append = engine.read_blocks, engine._append
    monkeypatch.setattr(engine, "read_blocks", counted)
    monkeypatch.setattr(engine, "_append", lambda *a: (written.append(1), append(*a)))
    embed_corpus(options(some_rows(20_000), max_texts_per_request=256, rows_per_part=6000))
    assert len(read) == len(written) >= 20


def test_a_server_that_goes_away_and_comes_back(options, fake, tmp_path):
    table = some_rows(2000)
    first, second = FakeTriton(), FakeTriton()
    first.card = second.card = fake.card
    first.first.extend([delay(0.02)] * 11)
    first.otherwise = delay(30.0)
    results = []
    with first.serve() as server:
        port = int(server.url.rpartition(":")[2])
        settings = options(table, urls=(server.url,), rows_per_part=500, max_in_flight=2)
        run = threading.Thread(target=lambda: results.append(embed_corpus(settings)))
        run.start()
        assert server.wait_until(lambda s: len(s.calls) > 10, seconds=30)
    with second.serve(port):
        run.join(60)
        assert results
        assert results[0].counts.rows == 2000
    check_output(tmp_path / "out", table)
    assert second.calls


def test_patience_ends_and_what_is_done_stays(options, fake, tmp_path):
    table = some_rows(1000)

    def die_late(call, tensors):
        if any(text.startswith(b"text 700 ") for text in call.texts):
            fake.otherwise = refuse(UNAVAILABLE, "gone")
            refuse(UNAVAILABLE, "gone")(call, tensors)

    fake.otherwise = die_late
    with pytest.raises(ModelUnavailable, match=r"no server has answered for .* s; .*gone"):
        embed_corpus(options(table, rows_per_part=100, server_wait_s=1.0))
    fake.otherwise = answer
    report = embed_corpus(options(rows_per_part=100, resume=True))
    assert report.resumed_parts >= 1
    check_output(tmp_path / "out", table)


def test_a_server_that_lost_the_model_is_away_and_not_asked_wrongly(options, fake):
    fake.first.extend([answer] * 3)
    fake.otherwise = refuse(grpc.StatusCode.NOT_FOUND, "Request for unknown model: 'm'")
    with pytest.raises(ModelUnavailable, match=r"no server has answered for .*unknown model"):
        embed_corpus(options(some_rows(1000), server_wait_s=1.0))


def test_a_model_that_is_not_there_at_the_beginning_is_not_found(options):
    with pytest.raises(ModelNotFound, match="nosuch"):
        embed_corpus(options(some_rows(3), model="nosuch"))


def test_several_servers_share_the_work(options, fake, tmp_path):
    table = some_rows(3000)
    other = FakeTriton()
    other.card = fake.card
    fake.otherwise = other.otherwise = delay(0.005)
    with other.serve() as server:
        embed_corpus(options(table, urls=(fake.url, server.url, "127.0.0.1:1")))
    check_output(tmp_path / "out", table)
    shares = [sum(len(call.texts) for call in triton.calls) for triton in (fake, other)]
    assert min(shares) > 500


def test_servers_of_different_models_are_refused(options, fake):
    other = FakeTriton()
    other.card = json.dumps({**CARD, "revision": "r2"})
    with other.serve() as server, pytest.raises(InvalidInput, match=r"different models.*r2"):
        embed_corpus(options(some_rows(3), urls=(fake.url, server.url)))


def test_a_server_that_comes_back_with_another_model_ends_the_run(options, fake, tmp_path):
    def replaced(call, tensors):
        if len(fake.calls) > 5:
            fake.card = json.dumps({**CARD, "revision": "r2"})
            refuse(UNAVAILABLE, "restarting")(call, tensors)

    fake.otherwise = replaced
    with pytest.raises(LasttokenError, match=r"serves .*r2.* made with .*r1"):
        embed_corpus(options(some_rows(2000)))


def test_no_server_at_all(options):
    with pytest.raises(ModelUnavailable):
        embed_corpus(options(some_rows(3), urls=("127.0.0.1:1",)))


@pytest.mark.parametrize("code", [grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.INTERNAL])
def test_refused_texts_become_nulls_where_that_is_asked_for(options, fake, tmp_path, code):
    def action(call, tensors):
        if any(b" 13 " in text or b" 77 " in text for text in call.texts):
            refuse(code, "no")(call, tensors)

    table = some_rows(200)
    fake.otherwise = action
    report = embed_corpus(options(table, on_refused="null"))
    assert report.counts.refused == 2
    vectors = pq.read_table(tmp_path / "out")["embedding"].to_pylist()
    texts = table["text"].to_pylist()
    for row, (text, vector) in enumerate(zip(texts, vectors, strict=True)):
        assert vector == (None if row in (13, 77) else vector_of(text).tolist())


def test_a_failing_engine_ends_the_run_and_names_the_row(options, fake):
    def action(call, tensors):
        if any(b" 13 " in text for text in call.texts):
            refuse(grpc.StatusCode.INTERNAL, "engine failed")(call, tensors)

    fake.otherwise = action
    with pytest.raises(ServerError, match=r"row 13 of .*engine failed"):
        embed_corpus(options(some_rows(200)))


def test_a_wrong_prompt_ends_the_run_at_its_beginning(options, fake, tmp_path):
    fake.otherwise = refuse(grpc.StatusCode.INVALID_ARGUMENT, "PROMPT_NAME is 'nope'")
    with pytest.raises(InvalidInput, match="PROMPT_NAME"):
        embed_corpus(options(some_rows(5), prompt_name="nope", on_refused="null"))
    assert not (tmp_path / "out").exists()


def test_the_limit_grows_shrinks_and_never_stops():
    limit = InFlightLimit(most=20)
    assert limit.requests == 8
    for _ in range(50):
        limit.answered()
    assert limit.requests == 20
    limit.overloaded()
    assert limit.requests == 10
    limit.answered()
    assert limit.requests == 10  # a step for a whole round of answers from here on
    for _ in range(50):
        limit.overloaded()
    assert limit.requests == 1
    limit.lost()
    assert limit.requests == 1
    for _ in range(10):
        limit.answered()
    assert limit.requests >= 8


def test_null_texts_only(options, tmp_path):
    table = pa.table({"text": pa.array([None, None], pa.string())})
    report = embed_corpus(options(table))
    assert report.counts.nulls == 2
    check_output(tmp_path / "out", table)


def test_every_call_has_the_token_and_the_headers(options, fake):
    embed_corpus(options(some_rows(200), token="s3cret", headers={"X-Tenant": "blue"}))
    assert fake.calls
    for call in fake.calls:
        sent = dict(call.context.invocation_metadata())
        assert sent["authorization"] == "Bearer s3cret"
        assert sent["x-tenant"] == "blue"


def test_secrets_are_neither_shown_nor_written(options, tmp_path):
    settings = options(some_rows(5), token="s3cret", headers={"X-Key": "hidden"})
    embed_corpus(settings)
    files = b"".join(path.read_bytes() for path in (tmp_path / "out").iterdir())
    for text in (repr(settings), files.decode("latin-1")):
        assert "s3cret" not in text
        assert "hidden" not in text

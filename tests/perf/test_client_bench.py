"""The arithmetic of the client bench, never its speed; the server is a scripted one, over gRPC."""

from __future__ import annotations

import json
import signal
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest

from lasttoken_perf import client_bench
from lasttoken_perf.client_bench import CONTESTANTS, ClientBenchOptions, run_client_bench, table
from lasttoken_perf.errors import WrongAnswer
from lasttoken_perf.interruption import Interrupted
from unit.client.fake_triton import DIMENSIONS, MODEL, FakeTriton, vectors_of

OPTIONS = ClientBenchOptions(dimensions=(DIMENSIONS,), texts=12, in_flight=3, repeats=2)


@pytest.fixture
def fake(monkeypatch):
    with FakeTriton().serve() as server:

        @contextmanager
        def serve(dimensions, *, cache_folder):
            yield SimpleNamespace(grpc_url=server.url, model=MODEL, dimensions=dimensions)

        monkeypatch.setattr(client_bench, "instant_server", serve)
        yield server


def run(**changes):
    return run_client_bench(OPTIONS, say=lambda words: None, **changes)


def test_every_contestant_is_measured_in_turn_and_its_rate_is_texts_by_seconds(fake):
    result = run()
    rows = result["rows"]
    assert [row["subject"] for row in rows] == [*CONTESTANTS, *CONTESTANTS]
    assert [row["repeat"] for row in rows] == [1] * len(CONTESTANTS) + [2] * len(CONTESTANTS)
    for row in rows:
        assert row["requests"] == 12
        assert row["concurrency"] == 3
        assert row["texts_per_s"] == pytest.approx(12 / row["seconds"])
        assert row["cpu_s_per_1000_texts"] >= 0
    assert result["checks"]["largest_difference"] == 0
    # One text a request, but for the list; a warm-up of one text for each in flight.
    singles = [call for call in fake.calls if len(call.texts) == 1]
    assert len(singles) == 2 * 4 * (12 + 3)


def test_no_more_requests_are_in_flight_than_asked_for(fake):
    run()
    assert fake.peak_in_flight <= 3


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda vectors: vectors[:-1], r"\(11, 8\) in place of \(12, 8\)"),
        (lambda vectors: vectors[::-1], "are off by"),
        (lambda vectors: vectors * np.float32(1.01), "are off by"),
    ],
)
def test_wrong_vectors_end_the_bench(fake, spoil, words):
    def wrong(url, model, texts, in_flight):
        vectors = vectors_of(texts)
        return spoil(vectors) if len(texts) == 12 else vectors  # the warm-up is not looked at

    with pytest.raises(WrongAnswer, match=words):
        run(contestants={"wrong": wrong})


def test_ratios_are_medians_over_those_of_the_raw_calls_of_the_same_kind_and_size():
    def row(variant, subject, rate, cpu):
        return {
            "variant": variant,
            "subject": subject,
            "texts_per_s": rate,
            "cpu_s_per_1000_texts": cpu,
        }

    rows = [
        row("8", "tritonclient, threads", 100.0, 0.2),
        row("8", "tritonclient, threads", 300.0, 0.4),
        row("8", "tritonclient, threads", 200.0, 0.3),
        row("8", "tritonclient, asyncio", 400.0, 0.1),
        row("8", "embed, threads", 150.0, 0.5),
        row("8", "embed, asyncio", 100.0, 0.5),
        row("8", "embed, one list", 1000.0, 0.05),
        row("16", "tritonclient, threads", 50.0, 0.2),
        row("16", "embed, threads", 50.0, 0.2),
    ]
    assert table({"rows": rows})[2:] == [
        "| 8 | tritonclient, threads | 200 | 100 | 300 | 1.00 | 0.30 |",
        "| 8 | tritonclient, asyncio | 400 | 400 | 400 | 1.00 | 0.10 |",
        "| 8 | embed, threads | 150 | 150 | 150 | 0.75 | 0.50 |",
        "| 8 | embed, asyncio | 100 | 100 | 100 | 0.25 | 0.50 |",
        "| 8 | embed, one list | 1000 | 1000 | 1000 | 5.00 | 0.05 |",
        "| 16 | tritonclient, threads | 50 | 50 | 50 | 1.00 | 0.20 |",
        "| 16 | embed, threads | 50 | 50 | 50 | 1.00 | 0.20 |",
    ]


def test_rows_measured_before_the_end_are_written(fake, tmp_path):
    """A contestant that fails in its second run, and a signal that comes then."""
    for error, words in (
        (WrongAnswer("off"), "WrongAnswer after 1 rows"),
        (Interrupted(signal.SIGINT), "SIGINT after 1 rows"),
    ):
        calls = []

        def ends(url, model, texts, in_flight, *, calls=calls, error=error):
            calls.append(texts)
            if len(calls) == 4:  # warm-up and run, twice
                raise error
            return vectors_of(texts)

        output = tmp_path / "result.json"
        with pytest.raises(type(error)):
            run(contestants={"ends": ends}, output=output)
        written = json.loads(output.read_text())
        assert (len(written["rows"]), written["interrupted"]) == (1, words)

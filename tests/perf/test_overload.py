"""The overload's bookkeeping: every request is answered, refused or failed, and counted once."""

import asyncio

import numpy as np
import pytest

from lasttoken import DeadlineExceeded, Embeddings, ServerOverloaded
from lasttoken_perf import overload
from lasttoken_perf.errors import PeerFailed
from lasttoken_perf.overload_traffic import Outcomes, endless, send
from lasttoken_perf.results import FIELDS, read_result, summarise
from lasttoken_perf.serving import Serving
from lasttoken_perf.workload import Workload


class FakeClient:
    def __init__(self, outcomes):
        self.outcomes = iter(outcomes)

    async def embed_full(self, text, *, timeout_s, priority):
        outcome = next(self.outcomes)
        if isinstance(outcome, Exception):
            raise outcome
        await asyncio.sleep(0.1)
        return Embeddings(vectors=outcome, token_counts=np.int32(5), truncated=np.bool_(False))


def test_every_request_is_counted_once():
    vector = np.array([0.6, 0.8], np.float32)
    client = FakeClient([vector, ServerOverloaded("full"), DeadlineExceeded("late"), vector])
    outcomes = Outcomes()

    async def send_all():
        outcomes.begin(4.0)
        for text in "abcd":
            await send(client, text, outcomes)

    asyncio.run(send_all())
    assert outcomes.texts == ["a", "d"]
    row = outcomes.fields()
    assert (row["requests"], row["refused"], row["failed"]) == (2, 1, 1)
    assert (row["texts_per_s"], row["tokens_per_s"]) == (0.5, 2.5)
    assert 0 <= row["refused_p99_ms"] < row["p50_ms"]
    assert row.keys() <= FIELDS.keys()
    nothing = Outcomes()
    nothing.begin(1.0)
    assert "p50_ms" not in nothing.fields()


def test_rates_are_of_what_was_answered_while_the_load_was_on():
    outcomes = Outcomes(
        begin_s=10.0, end_s=12.0, texts=list("abc"), tokens=[100, 10, 1],
        answered_s=[11.0, 12.0, 15.0], latency_ms=[500.0, 600.0, 3100.0],
    )  # fmt: skip
    row = outcomes.fields()
    assert (row["seconds"], row["texts_per_s"], row["tokens_per_s"]) == (2.0, 1.0, 55.0)
    assert (row["requests"], row["max_ms"]) == (3, 3100.0)
    assert outcomes.last_s == 15.0


def test_what_a_stretch_returns_costs_no_time_to_print():
    """asyncio.run takes the repr of its result when it ends, which took seconds of each stretch."""
    vectors = [np.zeros(500, np.float32)] * 100_000
    assert len(repr(Outcomes(vectors=vectors))) < 200


def rows(repeat, sustained, offered):
    return [
        {"variant": "sustained", "load": "concurrency", "repeat": repeat,
         "tokens_per_s": sustained, "batch_ms": 200.0},
        {"variant": "2 times the sustained", "load": "request_rate", "repeat": repeat,
         "tokens_per_s": offered, "refused_p99_ms": 12.0, "p99_ms": 900.0},
        {"variant": "interactive beside bulk", "load": "mixed", "repeat": repeat, "p99_ms": 300.0,
         "batch_ms": 50.0, "tokens_per_s": 1.0},
    ]  # fmt: skip


def test_the_bars_are_ratios_of_one_repeat():
    found = overload.bars([*rows(1, 100.0, 98.0), *rows(2, 200.0, 150.0)])
    assert found["goodput_over_sustained"] == pytest.approx([0.98, 0.75])
    assert found["refused_p99_ms"] == [12.0, 12.0]
    assert found["accepted_p99_ms"] == [900.0, 900.0]
    assert found["interactive_p99_ms"] == [300.0, 300.0]
    assert found["interactive_p99_batches"] == [1.5, 1.5]  # of bulk batches


def test_texts_come_round_again_and_each_before_any_twice():
    known = {"b": np.zeros(2, np.float32)}
    workload = Workload(distribution="queries", seed=1, texts=["a", "b", "c"], known=known)
    texts = endless(workload, seed=1)
    first = [next(texts) for _ in range(3)]
    assert first[0] == "b"  # so that whatever is answered can be compared
    assert sorted(first) == ["a", "b", "c"]
    assert sorted(next(texts) for _ in range(3)) == ["a", "b", "c"]


def test_repeats_are_one_point_though_each_offers_a_rate_of_its_own():
    rows = [
        {"subject": "s", "load": "request_rate", "variant": "2 times", "repeat": repeat,
         "offered_texts_per_s": rate, "texts_per_s": rate / 2}
        for repeat, rate in ((1, 10.0), (2, 12.0))
    ]  # fmt: skip
    [point] = summarise(rows)
    assert point["repeats"] == 2
    assert point["offered_texts_per_s"]["max"] == 12.0


NOWHERE = Serving(
    url="127.0.0.1:1", metrics_url="http://127.0.0.1:1/metrics", triton_name="m",
    dimensions=2, description={}, pid=None, repository=None,
)  # fmt: skip


def test_the_engine_is_timed_until_the_last_request_of_both_loads(monkeypatch):
    timed = []

    def figures(before, after, model, seconds):
        timed.append(seconds)
        return {"refused": 0, "batch_ms": 1.0}

    async def load(*arguments):
        outcomes = Outcomes()
        outcomes.begin(1.0)
        outcomes.texts, outcomes.vectors = ["a"], [np.array([0.6, 0.8], np.float32)]
        return outcomes

    async def beside(*arguments):
        bulk = arguments[-1]
        bulk.begin(1.0)
        bulk.texts, bulk.tokens, bulk.latency_ms = ["a"], [5], [31_000.0]
        bulk.answered_s = [bulk.end_s + 30.0]
        return await load()

    workload = Workload(
        distribution="queries", seed=1, texts=["a"], known={"a": np.array([0.6, 0.8], np.float32)}
    )
    for name, value in (
        ("make_workload", lambda *a, **k: workload), ("scrape", lambda url: {}),
        ("figures", figures), ("closed_loop", load), ("open_loop", load), ("beside_bulk", beside),
    ):  # fmt: skip
        monkeypatch.setattr(overload, name, value)
    options = overload.OverloadOptions(seconds=1.0, repeats=1)
    overload.run_overload(NOWHERE, options, say=lambda line: None)
    assert timed == [pytest.approx(1.0, abs=0.5)] * 2 + [pytest.approx(31.0, abs=0.5)]


def test_a_stretch_without_an_answer_ends_it_and_keeps_its_rows(monkeypatch, tmp_path):
    async def nothing(*arguments):
        outcomes = Outcomes(failed=7)
        outcomes.begin(1.0)
        return outcomes

    workload = Workload(distribution="queries", seed=1, texts=["a"], known={})
    for name, value in (
        ("make_workload", lambda *a, **k: workload), ("scrape", lambda url: {}),
        ("figures", lambda *a: {"refused": 0}), ("closed_loop", nothing),
    ):  # fmt: skip
        monkeypatch.setattr(overload, name, value)
    options = overload.OverloadOptions(seconds=1.0, repeats=1)
    output, said = tmp_path / "overload.json", []
    with pytest.raises(PeerFailed, match="no request was answered; 7 failed"):
        overload.run_overload(NOWHERE, options, say=said.append, output=output)
    assert "7 failed" in said[0]
    kept = read_result(output)
    assert kept["interrupted"] == "PeerFailed after 1 rows"
    assert kept["rows"][0]["failed"] == 7


@pytest.mark.server
def test_a_short_real_overload(smollm2_server):
    serving = Serving(
        url=smollm2_server.grpc_url, metrics_url=smollm2_server.metrics_url,
        triton_name="smollm2_135m", dimensions=576, description={}, pid=smollm2_server.pid,
        repository=None,
    )  # fmt: skip
    options = overload.OverloadOptions(
        distribution="queries", seconds=2.0, clients=4, repeats=1, texts=20
    )
    result = overload.run_overload(serving, options, say=lambda line: None)
    by_variant = {row["variant"]: row for row in result["rows"]}
    assert set(by_variant) == {
        "sustained", "2 times the sustained", "interactive beside bulk", "bulk beside interactive",
    }  # fmt: skip
    for row in result["rows"]:
        assert row["failed"] == 0
        assert row["requests"] >= 1
        if row["texts_per_s"]:  # queries have some twenty tokens; no other load's are counted
            assert 8 < row["tokens_per_s"] / row["texts_per_s"] < 60
    sustained = by_variant["sustained"]
    assert sustained["seconds"] == pytest.approx(2.0)
    # Little's law, but for what began or ended outside.
    in_flight = sustained["texts_per_s"] * sustained["mean_ms"] / 1000
    assert 2 < in_flight <= 4.5
    offered = by_variant["2 times the sustained"]["offered_texts_per_s"]
    assert offered == pytest.approx(2 * sustained["texts_per_s"])
    assert result["checks"]["lowest_cosine"] > 0.9999

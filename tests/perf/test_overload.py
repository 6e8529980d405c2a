"""The overload's bookkeeping: every request is answered, refused or failed, and counted once."""

import asyncio

import numpy as np
import pytest

from lasttoken import DeadlineExceeded, ServerOverloaded
from lasttoken_perf import overload
from lasttoken_perf.results import FIELDS


class FakeClient:
    def __init__(self, outcomes):
        self.outcomes = iter(outcomes)

    async def embed(self, text, *, timeout_s, priority):
        outcome = next(self.outcomes)
        if isinstance(outcome, Exception):
            raise outcome
        await asyncio.sleep(0.002)
        return outcome


def test_every_request_is_counted_once():
    vector = np.array([0.6, 0.8], np.float32)
    client = FakeClient([vector, ServerOverloaded("full"), DeadlineExceeded("late"), vector])
    outcomes = overload.Outcomes()

    async def send_all():
        for text in "abcd":
            await overload._send(client, text, outcomes)

    asyncio.run(send_all())
    assert outcomes.texts == ["a", "d"]
    row = outcomes.fields(seconds=4.0)
    assert (row["requests"], row["refused"], row["failed"]) == (2, 1, 1)
    assert row["texts_per_s"] == 0.5
    assert 0 <= row["refused_p99_ms"] < row["p50_ms"]
    assert row.keys() <= FIELDS.keys()
    assert "p50_ms" not in overload.Outcomes().fields(1.0)


def rows(repeat, sustained, offered):
    return [
        {"variant": "sustained", "repeat": repeat, "tokens_per_s": sustained, "batch_ms": 200.0},
        {"variant": "2 times the sustained", "repeat": repeat, "tokens_per_s": offered,
         "refused_p99_ms": 12.0, "p99_ms": 900.0},
        {"variant": "interactive beside bulk", "repeat": repeat, "p99_ms": 300.0,
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
    texts = overload._endless(["a", "b", "c"], seed=1)
    assert sorted(next(texts) for _ in range(3)) == ["a", "b", "c"]
    assert sorted(next(texts) for _ in range(3)) == ["a", "b", "c"]

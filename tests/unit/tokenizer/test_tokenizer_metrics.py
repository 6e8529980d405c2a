"""The tokenizer's counters: nothing waits for the server, nothing is lost or counted twice."""

import threading
import time
from types import SimpleNamespace

from tokenizer_metrics import TokenizerMetrics


class FakeServer:
    """A metrics interface whose calls wait at a gate, as a busy server's do."""

    def __init__(self):
        self.gate = threading.Event()
        self.told = []
        self.series = []
        server = self

        class MetricFamily:
            COUNTER = "counter"

            def __init__(self, *, name, description, kind):
                self.name = name

            def Metric(self, *, labels):  # noqa: N802 - Triton's name
                server.series.append((self.name, labels.get("reason", "")))

                def increment(value):
                    assert server.gate.wait(30)
                    server.told.append((self.name, labels.get("reason", ""), value))

                return SimpleNamespace(increment=increment)

        self.MetricFamily = MetricFamily


def sums(told):
    totals = {}
    for name, reason, value in told:
        totals[name, reason] = totals.get((name, reason), 0) + value
    return totals


def test_every_refusal_has_its_counter_from_the_start():
    server = FakeServer()
    metrics = TokenizerMetrics(server, {"model": "m"})
    reasons = [reason for name, reason in server.series if name.endswith("_refused_total")]
    assert reasons == ["encoding", "prompt", "shape", "empty", "too_long"]
    metrics.close()


def test_no_answer_waits_for_a_counter_and_all_are_told_in_the_end():
    server = FakeServer()
    metrics = TokenizerMetrics(server, {"model": "m"})
    started_s = time.monotonic()
    for _ in range(50):
        metrics.add({"texts": 2, "tokens": 10, "truncated_texts": 0})
        metrics.refused("empty")
    assert time.monotonic() - started_s < 25  # the gate is shut: 30 s if anything waited
    assert server.told == []
    server.gate.set()
    metrics.close()
    assert sums(server.told) == {
        ("lasttoken_tokenizer_texts_total", ""): 100,
        ("lasttoken_tokenizer_tokens_total", ""): 500,
        ("lasttoken_tokenizer_refused_total", "empty"): 50,
    }
    assert len(server.told) <= 6  # told together, not one by one


def test_a_call_that_fails_does_not_end_the_counting(caplog):
    server = FakeServer()
    server.gate.set()
    metrics = TokenizerMetrics(server, {"model": "m"})
    metrics.add({"no such counter": 1})
    while "could not be told" not in caplog.text:
        time.sleep(0.01)
    metrics.add({"texts": 3})
    metrics.close()
    assert server.told == [("lasttoken_tokenizer_texts_total", "", 3)]

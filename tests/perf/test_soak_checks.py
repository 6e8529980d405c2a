"""The soak against a fake client: what it counts, and what it must notice."""

import asyncio
import os
import random
import signal
from types import SimpleNamespace

import numpy as np
import pytest

from lasttoken import DeadlineExceeded, ServerOverloaded
from lasttoken_perf import soak
from lasttoken_perf.errors import WrongAnswer
from lasttoken_perf.interruption import Interrupted, signals_unwind
from lasttoken_perf.results import read_result

VECTOR = np.array([0.6, 0.8], np.float32)


class FakeClient:
    def __init__(self, outcome, delay_s=0.0):
        self.outcome = outcome
        self.delay_s = delay_s

    async def embed(self, text, *, timeout_s, priority):
        await asyncio.sleep(self.delay_s)
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


class Scripted(random.Random):
    """`random()` says what becomes of the request; `uniform()` is the patience of a cancel."""

    def __init__(self, fate, patience_s=0.01):
        super().__init__(0)
        self.fate = fate
        self.patience_s = patience_s

    def random(self):
        return self.fate

    def uniform(self, low, high):
        return self.patience_s


PATIENT, HASTY, CANCELLED = 0.9, 0.15, 0.05


def one(outcome, fate, delay_s=0.0, patience_s=0.01):
    run = soak._Run()
    script = Scripted(fate, patience_s)
    said = asyncio.run(soak._one(FakeClient(outcome, delay_s), "a text", VECTOR, script, run))
    return said, run.wrong


@pytest.mark.parametrize(
    ("outcome", "fate", "said", "wrong"),
    [
        (VECTOR, PATIENT, "answered", False),
        (VECTOR, HASTY, "answered", False),
        (VECTOR[::-1], PATIENT, "answered", True),
        (VECTOR[::-1], HASTY, "answered", True),
        (np.nextafter(VECTOR, 1, dtype=np.float32), PATIENT, "answered", True),
        (DeadlineExceeded("late"), HASTY, "deadline exceeded", False),
        (DeadlineExceeded("late"), PATIENT, "deadline exceeded", True),
        (ServerOverloaded("full"), HASTY, "overloaded", False),
        (ServerOverloaded("full"), PATIENT, "overloaded", True),
    ],
)
def test_what_is_right_and_what_is_wrong(outcome, fate, said, wrong):
    result, complaints = one(outcome, fate)
    assert result == said
    assert bool(complaints) is wrong


def test_a_cancelled_request_is_counted_as_such_unless_it_was_answered_before():
    assert one(VECTOR, CANCELLED, delay_s=60)[0] == "cancelled"
    assert one(VECTOR, CANCELLED, patience_s=60) == ("answered", [])


def test_any_other_error_ends_the_soak():
    with pytest.raises(KeyError):
        one(KeyError("a bug"), PATIENT)


class Soaked:
    """In place of a server's client: the third of four requests is the last that is answered."""

    def __init__(self, url, model):
        self.asked = 0

    async def __aenter__(self):
        return self

    async def __aexit__(self, *error):
        pass

    async def embed(self, text, **options):
        vector = np.frombuffer(text.encode().ljust(512)[:512], np.float32)
        if options:
            self.asked += 1
            if self.asked > 3:
                signal.raise_signal(signal.SIGTERM)
                await asyncio.sleep(60)
        return vector


@pytest.mark.timeout(30)
def test_a_signal_ends_the_soak_at_once_and_keeps_its_outcomes(tmp_path, monkeypatch):
    """Every request that a signal cancels once counted as one more that its own client gave up."""
    monkeypatch.setattr(soak, "AsyncEmbeddingClient", Soaked)
    monkeypatch.setattr(soak, "_CANCELLED_SHARE", 0.0)
    output = tmp_path / "soak.json"
    options = soak.SoakOptions(requests=1000, clients=1, distinct_texts=20)
    server = SimpleNamespace(grpc_url="nowhere:1", pid=os.getpid())
    with pytest.raises(Interrupted), signals_unwind():
        soak.run_soak(server, "m", options, say=print, output=output)
    result = read_result(output)
    assert (result["kind"], result["outcomes"]) == ("soak", {"answered": 3})
    assert result["interrupted"] == "SIGTERM after 3 requests"
    assert result["seconds"] < 30


def test_what_went_wrong_is_kept_too(tmp_path, monkeypatch):
    async def wrong(server, model, texts, options, say, run):
        run.outcomes["answered"] += 2
        run.wrong.append("wrong vector for 'a'")
        run.began_s, run.ended_s = 5.0, 7.0

    monkeypatch.setattr(soak, "_soak", wrong)
    output, options = tmp_path / "soak.json", soak.SoakOptions(requests=2, distinct_texts=20)
    with pytest.raises(WrongAnswer, match="1 of 2 requests went wrong"):
        soak.run_soak(None, "m", options, say=print, output=output)
    result = read_result(output)
    assert (result["wrong_answers"], result["first_wrong"]) == (1, ["wrong vector for 'a'"])
    assert result["interrupted"] == "WrongAnswer after 2 requests"
    assert result["seconds"] == 2  # of the load, not of what is embedded before and after

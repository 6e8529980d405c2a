"""The soak against a fake client: what it counts, and what it must notice."""

import asyncio
import random

import numpy as np
import pytest

from lasttoken import DeadlineExceeded, ServerOverloaded
from lasttoken_perf import soak

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


def one(outcome, fate, delay_s=0.0):
    run = soak._Run()
    said = asyncio.run(
        soak._one(FakeClient(outcome, delay_s), "a text", VECTOR, Scripted(fate), run)
    )
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
    assert one(VECTOR, CANCELLED, delay_s=5)[0] == "cancelled"
    assert one(VECTOR, CANCELLED) == ("answered", [])


def test_any_other_error_ends_the_soak():
    with pytest.raises(KeyError):
        one(KeyError("a bug"), PATIENT)

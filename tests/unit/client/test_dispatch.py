"""The sending plan of a call, with a clock that the test turns."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lasttoken import (
    DeadlineExceeded,
    ModelUnavailable,
    RetryPolicy,
    ServerError,
    ServerOverloaded,
)
from lasttoken.dispatch import Dispatch
from lasttoken.window import Window


class LongestWait(random.Random):
    """Draws the upper end, so that tests see the schedule itself."""

    def uniform(self, a: float, b: float) -> float:
        assert a == 0.0
        return b


class Fixed(Window):
    """A window that learns nothing, so that tests see the bound itself."""

    def __init__(self, most: int) -> None:
        super().__init__(most)
        self._limit = float(most)

    def answered(self, **_: object) -> None: ...

    def refused(self, now: float) -> None: ...


def unavailable() -> ModelUnavailable:
    return ModelUnavailable("down", status="UNAVAILABLE")


def make(
    count=1, *, deadline=100.0, max_in_flight=4, jitter=None, request_timeout_s=math.inf, **retry
) -> Dispatch:
    return Dispatch(
        count,
        deadline=deadline,
        request_timeout_s=request_timeout_s,
        window=Fixed(max_in_flight),
        retry=RetryPolicy(**retry),
        jitter=jitter or LongestWait(),
    )


def test_waits_double_up_to_the_longest():
    dispatch = make(initial_s=0.1, max_s=1.0)
    now, waits = 0.0, []
    for _ in range(7):
        assert dispatch.take(now) == [0]
        dispatch.failed(0, unavailable(), now)
        waits.append(dispatch.wait_s(now))
        assert dispatch.take(now + waits[-1] - 1e-6) == []
        now += waits[-1]
    assert waits == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0])


def test_jitter_covers_the_whole_range():
    waits = []
    for seed in range(300):
        dispatch = make(initial_s=1.0, max_s=1.0, jitter=random.Random(seed))
        dispatch.take(0.0)
        dispatch.failed(0, unavailable(), 0.0)
        waits.append(dispatch.wait_s(0.0))
    assert min(waits) < 0.05
    assert max(waits) > 0.95
    assert sum(waits) / len(waits) == pytest.approx(0.5, abs=0.05)


def test_a_wait_past_the_deadline_ends_the_call_at_once_with_the_servers_error():
    dispatch = make(deadline=10.0, initial_s=3.0, max_s=8.0)
    dispatch.take(1.0)
    dispatch.failed(0, unavailable(), 1.0)  # due at 4
    dispatch.take(4.0)
    with pytest.raises(ServerOverloaded, match="full, attempts: 2") as caught:
        dispatch.failed(0, ServerOverloaded("full", status="UNAVAILABLE"), 4.0)  # due at 10
    assert caught.value.status == "UNAVAILABLE"


def test_a_wait_that_ends_past_the_deadline_ends_the_call_with_the_servers_error():
    """The caller may be late; what its request met is told all the same."""
    dispatch = make(2, deadline=10.0, initial_s=3.0, max_s=8.0)
    dispatch.take(1.0)
    dispatch.failed(1, unavailable(), 1.0)  # due at 4
    with pytest.raises(ModelUnavailable, match=r"down, attempts: 1; .*2 of 2 requests") as caught:
        dispatch.take(10.0)
    assert caught.value.status == "UNAVAILABLE"
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize(("sent", "kind"), [(7.0, ServerOverloaded), (4.0, DeadlineExceeded)])
def test_time_that_is_over_is_told_as_what_took_most_of_it(sent, kind):
    dispatch = make(deadline=11.0, initial_s=1.0)
    dispatch.take(1.0)
    dispatch.failed(0, ServerOverloaded("full", status="UNAVAILABLE"), 1.0)  # due at 2
    assert dispatch.take(sent) == [0]
    late = DeadlineExceeded("late", status="DEADLINE_EXCEEDED")
    with pytest.raises(kind, match=r"late|full, attempts: 2"):
        dispatch.failed(0, late, 11.0)


def test_refusals_are_told_whenever_the_time_is_found_to_be_over():
    """Between `take` and sending, and while the next attempts are in flight."""
    one = make(deadline=1.0, initial_s=0.9)
    one.take(0.0)
    one.failed(0, unavailable(), 0.0)  # due at 0.9
    assert one.take(0.95) == [0]
    with pytest.raises(ModelUnavailable, match="down, attempts: 2"):
        one.remaining_s(0, 1.0)
    several = make(3, deadline=1.0, max_in_flight=2, initial_s=0.9)
    several.take(0.0)
    for request in (0, 1):
        several.failed(request, unavailable(), 0.0)
    assert several.take(0.95) == [0, 1]
    with pytest.raises(ModelUnavailable, match=r"down, attempts: 2; .*3 of 3 requests"):
        several.take(1.0)
    begun = make(deadline=10.0, initial_s=0.9)
    begun.take(0.0)
    begun.failed(0, unavailable(), 0.0)
    assert begun.take(1.0) == [0]  # it has had nine tenths of the time
    with pytest.raises(DeadlineExceeded):
        begun.take(10.0)


def test_the_time_of_a_request_is_its_own_within_that_of_the_call():
    """As `embed_iter` has it: from each request's first sending, retries included."""
    dispatch = make(2, deadline=100.0, max_in_flight=1, initial_s=2.0, request_timeout_s=5.0)
    assert dispatch.take(10.0) == [0]
    assert dispatch.remaining_s(0, 11.0) == 4.0
    dispatch.failed(0, unavailable(), 11.0)  # due at 13
    dispatch.take(13.0)
    assert dispatch.remaining_s(0, 13.0) == 2.0
    dispatch.answered(0, 14.0)
    assert dispatch.take(98.0) == [1]
    assert dispatch.remaining_s(1, 98.0) == 2.0  # of the call


def test_a_request_that_goes_elsewhere_at_the_deadline_tells_its_attempt():
    dispatch = make(deadline=1.0)
    dispatch.take(0.0)
    dispatch.failed(0, unavailable(), 0.5, elsewhere=True)
    with pytest.raises(ModelUnavailable, match="attempts: 1"):
        dispatch.take(1.0)


@pytest.mark.parametrize(
    "error",
    [
        ServerError("no", status="INTERNAL"),
        ServerOverloaded("no", status="RESOURCE_EXHAUSTED"),
        ModelUnavailable("no", status="FAILED_PRECONDITION"),
        DeadlineExceeded("no", status="UNAVAILABLE"),
    ],
)
def test_only_unavailable_is_tried_again(error):
    dispatch = make()
    dispatch.take(0.0)
    with pytest.raises(type(error)) as caught:
        dispatch.failed(0, error, 0.0)
    assert caught.value is error


def test_a_request_that_waits_keeps_its_place_in_flight():
    dispatch = make(10, max_in_flight=3, initial_s=1.0)
    assert dispatch.take(0.0) == [0, 1, 2]
    for request in (0, 1, 2):
        dispatch.failed(request, unavailable(), 0.0)
    assert dispatch.take(0.5) == []
    assert dispatch.take(1.0) == [0, 1, 2]
    dispatch.answered(1, 0.0)
    assert dispatch.take(1.0) == [3]


def test_the_deadline_counts_what_is_missing():
    dispatch = make(5, deadline=1.0, max_in_flight=2)
    dispatch.take(0.0)
    dispatch.answered(0, 0.0)
    assert dispatch.wait_s(0.75) == 0.25
    assert dispatch.wait_s(2.0) == 0.0
    with pytest.raises(DeadlineExceeded, match="4 of 5 requests"):
        dispatch.take(1.0)


@given(
    count=st.integers(1, 30),
    max_in_flight=st.integers(1, 6),
    outcomes=st.lists(st.booleans(), max_size=60),
    picks=st.randoms(use_true_random=False),
)
def test_every_request_is_answered_once_and_the_bound_holds(count, max_in_flight, outcomes, picks):
    dispatch = make(count, deadline=1e9, max_in_flight=max_in_flight, jitter=random.Random(0))
    now, sent, answered, failures = 0.0, [], [], list(outcomes)
    while not dispatch.finished:
        taken = dispatch.take(now)
        assert not set(taken) & (set(sent) | set(answered))
        sent += taken
        assert len(sent) <= max_in_flight
        if not sent:
            now += dispatch.wait_s(now)
            continue
        request = sent.pop(picks.randrange(len(sent)))
        if failures and failures.pop():
            dispatch.failed(request, unavailable(), now)
        else:
            dispatch.answered(request, 0.0)
            answered.append(request)
    assert sorted(answered) == list(range(count))

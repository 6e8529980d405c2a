"""The scheduler with an engine that takes a batch while it computes the one before."""

import threading
import time

import numpy as np
import pytest
from batch_planner import BatchLimits, CostModel
from encode_errors import EngineFailed
from encode_request import EncodeRequest
from row_queue import RowQueue
from scheduler import Scheduler

from unit.encoder.fakes import Answer, FakeEngine, Observer, vector_of

PREFERRED = 64


class FakeOverlappingEngine(FakeEngine):
    """Batches in flight end when `ends` is released for each."""

    def __init__(self, **options):
        super().__init__(**options)
        self.ends = threading.Semaphore(0)
        self.started, self.in_flight, self.most_in_flight = [], 0, 0
        self.began = threading.Condition()
        self.refuses_to_start = False

    def start(self, input_ids, row_lengths):
        if self.refuses_to_start:
            raise RuntimeError("no memory")
        ids, lengths = input_ids.copy(), row_lengths.copy()
        with self.began:
            self.started.append(lengths.tolist())
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
            self.began.notify_all()

        def finish():
            assert self.ends.acquire(timeout=30)
            self.in_flight -= 1
            return FakeEngine.encode(self, ids, lengths)

        return finish

    def wait_started(self, count):
        with self.began:
            assert self.began.wait_for(lambda: len(self.started) >= count, 30)


@pytest.fixture
def make():
    made = []

    def build(engine):
        queue = RowQueue(
            BatchLimits(preferred_tokens=PREFERRED, max_rows=16),
            CostModel(attention_cell_cost=1e-3, overhead_tokens=8, padded=False),
            max_queue_tokens=100_000,
            bulk_queue_fraction=0.75,
            bulk_every=4,
        )
        observer = Observer()
        scheduler = Scheduler(engine, queue, observer)
        made.append((scheduler, engine))
        return scheduler, observer

    yield build
    for scheduler, engine in made:
        engine.ends.release(1000)
        scheduler.close(drain_timeout_s=10)


def submit(scheduler, *lengths, first=1):
    rows = [np.arange(first, first + length, dtype=np.int32) for length in lengths]
    answer = Answer()
    scheduler.submit(EncodeRequest(rows, answer))
    return rows, answer


def check(submitted):
    rows, answer = submitted
    np.testing.assert_array_equal(answer.wait(), np.stack([vector_of(row) for row in rows]))


def test_a_full_batch_is_begun_before_the_one_before_it_ends(make):
    engine = FakeOverlappingEngine()
    scheduler, observer = make(engine)
    submitted = [submit(scheduler, 60, first=first) for first in (1, 2, 3)]
    engine.wait_started(2)
    assert engine.batches == []  # neither has ended
    engine.ends.release(3)
    for one in submitted:
        check(one)
    assert engine.most_in_flight == 2
    scheduler.close(drain_timeout_s=10)
    assert sum(report.rows for report in observer.reports) == 3
    assert all(report.seconds >= 0 for report in observer.reports)


def test_no_more_than_two_batches_are_in_flight(make):
    engine = FakeOverlappingEngine()
    scheduler, _ = make(engine)
    submitted = [submit(scheduler, PREFERRED, first=first) for first in range(1, 7)]
    engine.wait_started(2)
    time.sleep(0.05)  # for a third to show
    engine.ends.release(6)
    for one in submitted:
        check(one)
    assert engine.most_in_flight == 2


def test_a_batch_that_would_not_be_full_waits_for_company(make):
    engine = FakeOverlappingEngine()
    scheduler, _ = make(engine)
    first = submit(scheduler, 5)
    engine.wait_started(1)
    later = [submit(scheduler, 5, first=first) for first in (2, 3)]
    assert len(engine.started) == 1
    engine.ends.release(2)
    for one in (first, *later):
        check(one)
    assert engine.started == [[5], [5, 5]]
    assert engine.most_in_flight == 1


def test_rows_of_a_batch_that_fails_late_are_tried_alone(make):
    engine = FakeOverlappingEngine(poison=999)
    scheduler, observer = make(engine)
    good = submit(scheduler, 30)
    engine.wait_started(1)
    healthy = submit(scheduler, 25, first=100)
    poisoned = submit(scheduler, 25, first=980)
    behind = submit(scheduler, 60, first=2000)
    engine.ends.release(10)
    check(good)
    check(healthy)
    check(behind)
    assert isinstance(poisoned[1].wait(), EngineFailed)
    scheduler.close(drain_timeout_s=10)
    assert sum(report.failed_rows for report in observer.reports) == 1


def test_rows_of_a_batch_that_cannot_be_started_are_tried_alone(make):
    engine = FakeOverlappingEngine()
    engine.refuses_to_start = True
    scheduler, _ = make(engine)
    check(submit(scheduler, 5, 6))
    assert isinstance(submit(scheduler, 5)[1].wait(), EngineFailed)


def test_closing_ends_the_batch_in_flight(make):
    engine = FakeOverlappingEngine()
    scheduler, _ = make(engine)
    submitted = [submit(scheduler, PREFERRED, first=first) for first in (1, 2)]
    engine.wait_started(2)
    engine.ends.release(2)
    scheduler.close(drain_timeout_s=10)
    for one in submitted:
        check(one)

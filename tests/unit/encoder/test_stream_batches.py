"""Batches beside each other, one a stream, on an engine that has streams."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from encode_errors import EngineFailed
from encode_request import ServiceClass

from unit.encoder.fakes import FakeEngine, vector_of
from unit.encoder.test_scheduler import PREFERRED, make, rows_of, submit

__all__ = ["make"]  # a fixture

HALF = PREFERRED // 2


class StreamEngine(FakeEngine):
    """Remembers what ran in a stream, and how much at a time; batches end when `let` is called."""

    runs_beside = True

    def __init__(self, *, streams=2, **options):
        super().__init__(**options)
        self.streams = streams
        self.in_stream, self.whole = [], []
        self.inside = []  # first tokens of the batches inside
        self.most_inside = 0
        self.changed = threading.Condition()
        self.free = False

    def encode(self, input_ids, row_lengths):
        return self._compute(self.whole, input_ids, row_lengths)

    def encode_in_stream(self, input_ids, row_lengths):
        return self._compute(self.in_stream, input_ids, row_lengths)

    def _compute(self, kind, input_ids, row_lengths):
        me = int(input_ids[0])
        with self.changed:
            kind.append(row_lengths.tolist())
            self.inside.append(me)
            self.most_inside = max(self.most_inside, len(self.inside))
            self.changed.notify_all()
            assert self.changed.wait_for(lambda: self.free or me not in self.inside, 30)
            if me in self.inside:
                self.inside.remove(me)
        return FakeEngine.encode(self, input_ids, row_lengths)

    def wait_inside(self, count):
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.inside) == count, 30), self.inside

    def let(self, first_token):
        """Let the batch that begins with this token end."""
        with self.changed:
            self.inside.remove(first_token)
            self.changed.notify_all()

    def let_all(self):
        with self.changed:
            self.free = True
            self.changed.notify_all()


@pytest.fixture
def engine():
    made = StreamEngine(poison=7777)
    yield made
    made.let_all()


def fill(scheduler, engine, **options):
    """One batch on the whole engine, and behind it a full one for each stream; returns answers."""
    answers = [submit(scheduler, rows_of([5], start=9000), **options)]
    engine.wait_inside(1)
    answers += [
        submit(scheduler, rows_of([HALF], start=1000 * (stream + 1)), **options)
        for stream in range(engine.streams)
    ]
    engine.let(9000)
    engine.wait_inside(engine.streams)
    return answers


def check_all(engine, answers):
    engine.let_all()
    for answer in answers:
        assert isinstance(answer.wait(), np.ndarray)


def test_what_fills_no_stream_each_is_computed_by_the_whole_engine(make, engine):
    scheduler, _ = make(engine)
    first = submit(scheduler, rows_of([5], start=1))
    engine.wait_inside(1)
    waiting = [submit(scheduler, rows_of([HALF - 1], start=100 * n)) for n in (1, 2)]
    time.sleep(0.05)  # for a second batch to show
    assert engine.most_inside == 1
    engine.let(1)
    check_all(engine, [first, *waiting])
    assert engine.whole == [[5], [HALF - 1, HALF - 1]]
    assert engine.in_stream == []


def test_a_long_row_alone_has_the_whole_engine(make, engine):
    """It would fill both streams, and can be in one of them only."""
    scheduler, _ = make(engine)
    long = submit(scheduler, rows_of([10 * PREFERRED]))
    check_all(engine, [long])
    assert engine.whole == [[10 * PREFERRED]]


@pytest.mark.parametrize("streams", [2, 3])
def test_each_stream_has_a_batch_of_its_own(make, streams):
    engine = StreamEngine(streams=streams)
    scheduler, observer = make(engine)
    answers = fill(scheduler, engine)
    assert sorted(engine.inside) == [1000 * (stream + 1) for stream in range(streams)]
    check_all(engine, answers)
    assert engine.in_stream == [[HALF]] * streams
    assert engine.most_inside == streams
    scheduler.close(drain_timeout_s=10)
    assert sum(report.rows for report in observer.reports) == streams + 1


def test_a_free_stream_takes_what_waits_and_the_whole_engine_comes_back(make, engine):
    scheduler, _ = make(engine)
    answers = fill(scheduler, engine)
    answers.append(submit(scheduler, rows_of([3], start=50)))
    time.sleep(0.05)  # for a third batch to show
    assert len(engine.inside) == 2
    engine.let(1000)
    engine.wait_inside(2)
    assert set(engine.inside) == {2000, 50}
    engine.let(2000)
    engine.let(50)
    for answer in answers:
        answer.wait()
    with scheduler._changed:  # answers are given before their streams are free
        assert scheduler._changed.wait_for(lambda: not scheduler._in_flight, 30)
    last = submit(scheduler, rows_of([4], start=60))
    engine.wait_inside(1)
    check_all(engine, [*answers, last])
    assert engine.whole == [[5], [4]]
    assert sorted(engine.in_stream) == [[3], [HALF], [HALF]]


def test_nothing_is_begun_beside_a_batch_on_all_threads(make, engine):
    scheduler, _ = make(engine)
    answers = [submit(scheduler, rows_of([5], start=9000))]
    engine.wait_inside(1)
    answers += [submit(scheduler, rows_of([HALF], start=100 * n)) for n in range(1, 9)]
    time.sleep(0.05)
    assert engine.inside == [9000]
    engine.let(9000)
    engine.wait_inside(2)
    check_all(engine, answers)
    assert engine.most_inside == 2


def test_interactive_rows_do_not_wait_for_streams_that_all_compute_bulk(make, engine):
    scheduler, _ = make(engine)
    answers = fill(scheduler, engine, service_class=ServiceClass.BULK)
    answers.append(submit(scheduler, rows_of([3], start=50)))
    engine.wait_inside(3)
    answers.append(submit(scheduler, rows_of([4], start=60)))
    time.sleep(0.05)  # for a fourth batch to show
    assert set(engine.inside) == {1000, 2000, 50}
    check_all(engine, answers)
    assert [3] in engine.whole


def test_interactive_rows_wait_where_a_stream_computes_interactive_ones(make, engine):
    scheduler, _ = make(engine)
    answers = fill(scheduler, engine)
    answers.append(submit(scheduler, rows_of([3], start=50)))
    time.sleep(0.05)
    assert set(engine.inside) == {1000, 2000}
    check_all(engine, answers)


def test_a_failure_in_a_stream_is_its_rows_own(make, engine):
    scheduler, _ = make(engine)
    answers = fill(scheduler, engine)
    poisoned = submit(scheduler, rows_of([10, 4], start=7776))
    check_all(engine, answers)
    assert isinstance(poisoned.wait(), EngineFailed)
    good = submit(scheduler, rows_of([4]))
    assert isinstance(good.wait(), np.ndarray)


def test_closing_works_off_all_streams(make, engine):
    scheduler, observer = make(engine)
    answers = fill(scheduler, engine)
    answers += [submit(scheduler, rows_of([HALF], start=100 * n)) for n in range(1, 9)]
    threading.Timer(0.1, engine.let_all).start()
    scheduler.close(drain_timeout_s=10)
    assert all(len(answer.values) == 1 for answer in answers)
    assert sum(report.rows for report in observer.reports) == 11


def test_time_beside_each_other_is_counted_once(make, engine):
    scheduler, observer = make(engine)
    begin = time.perf_counter()
    answers = fill(scheduler, engine)
    time.sleep(0.2)
    check_all(engine, answers)
    scheduler.close(drain_timeout_s=10)
    wall = time.perf_counter() - begin
    assert sum(report.seconds for report in observer.reports) >= 0.4
    assert 0.2 <= sum(report.busy_seconds for report in observer.reports) <= wall


def test_an_engine_with_one_stream_has_none(make):
    engine = StreamEngine(streams=1)
    scheduler, _ = make(engine)
    answers = [submit(scheduler, rows_of([HALF], start=100 * n)) for n in range(1, 9)]
    check_all(engine, answers)
    assert engine.in_stream == []
    assert engine.most_inside == 1


def test_rows_from_many_threads_come_back_as_their_own(make):
    engine = StreamEngine(streams=3)
    engine.let_all()
    scheduler, _ = make(engine)
    generator = np.random.default_rng(3)
    rows = [rows_of(generator.integers(1, 70, 4).tolist(), start=1 + n) for n in range(200)]
    answers = [None] * len(rows)

    def send(first):
        for index in range(first, len(rows), 8):
            answers[index] = submit(scheduler, rows[index])

    threads = [threading.Thread(target=send, args=(first,)) for first in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for sent, answer in zip(rows, answers, strict=True):
        np.testing.assert_array_equal(answer.wait(), [vector_of(row) for row in sent])
    assert engine.in_stream
    assert all(sum(batch) <= HALF for batch in engine.in_stream if len(batch) > 1)

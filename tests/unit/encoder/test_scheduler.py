import threading
import time

import numpy as np
import pytest
from batch_planner import BatchLimits, CostModel
from computed_work import packed_work
from encode_errors import DeadlineExpired, EngineFailed, InvalidRows, Overloaded, ShuttingDown
from encode_request import EncodeRequest, ServiceClass
from hypothesis import given, settings
from hypothesis import strategies as st
from row_queue import RowQueue
from scheduler import Scheduler

from unit.encoder.fakes import Answer, FakeEngine, Observer, vector_of

PREFERRED = 64


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def make():
    made = []

    def build(engine, *, clock=time.monotonic, max_queue_tokens=100_000, padded=False):
        queue = RowQueue(
            BatchLimits(preferred_tokens=PREFERRED, max_rows=16),
            CostModel(attention_cell_cost=1e-3, overhead_tokens=8, padded=padded),
            max_queue_tokens=max_queue_tokens,
            bulk_queue_fraction=0.75,
            bulk_every=4,
        )
        observer = Observer()
        scheduler = Scheduler(engine, queue, observer, clock=clock)
        made.append((scheduler, engine))
        return scheduler, observer

    yield build
    for scheduler, engine in made:
        engine.gate.set()
        scheduler.close(drain_timeout_s=10)


def rows_of(lengths, start=1):
    return [np.arange(start + i, start + i + length, dtype=np.int32)
            for i, length in enumerate(lengths)]  # fmt: skip


def submit(scheduler, rows, **options):
    answer = Answer()
    scheduler.submit(EncodeRequest(rows, answer, **options))
    return answer


def at_work(make, engine=None, *, length=3, **options):
    """The engine, a scheduler and its observer, and a first request that it computes until told."""
    engine = engine or FakeEngine()
    engine.gate.clear()
    scheduler, observer = make(engine, **options)
    first = submit(scheduler, rows_of([length]))
    assert engine.running.wait(30)
    return engine, scheduler, observer, first


def test_waiting_is_counted_for_each_row(make):
    clock, engine = Clock(), FakeEngine()
    engine.gate.clear()
    scheduler, observer = make(engine, clock=clock)
    first = submit(scheduler, rows_of([3]))
    assert engine.running.wait(30)  # the engine is busy with it: what comes now waits
    second = submit(scheduler, rows_of([4, 5]))
    clock.now = 2.5
    engine.gate.set()
    assert first.wait() is not None
    assert second.wait() is not None
    scheduler.close(drain_timeout_s=10)
    waited = {report.rows: report for report in observer.reports}
    assert waited[1].queue_seconds == 0
    assert waited[2].queue_seconds == 2 * 2.5
    assert waited[2].answer_seconds > 0


def test_what_has_expired_takes_no_room_from_what_has_not(make):
    clock = Clock()
    engine, scheduler, observer, _ = at_work(make, clock=clock, max_queue_tokens=60)
    short = submit(scheduler, rows_of([40]), deadline_s=1.0)
    patient = submit(scheduler, rows_of([20]))
    with pytest.raises(Overloaded):
        submit(scheduler, rows_of([30]))
    clock.now = 2.0
    with pytest.raises(Overloaded):  # it has more than the expired one leaves
        submit(scheduler, rows_of([41]))
    assert isinstance(short.wait(), DeadlineExpired)
    late = submit(scheduler, rows_of([40]))
    engine.gate.set()
    assert len(patient.wait()) == len(late.wait()) == 1
    assert observer.dropped == ["expired"]


def test_rows_spread_over_batches_come_back_in_order(make):
    engine = FakeEngine()
    scheduler, observer = make(engine)
    rows = rows_of([30, 5, 60, 64, 100, 1, 30, 31, 5])
    vectors = submit(scheduler, rows).wait()
    assert len(engine.batches) > 3
    np.testing.assert_array_equal(vectors, [vector_of(row) for row in rows])
    scheduler.close(drain_timeout_s=1)
    assert sum(report.real_tokens for report in observer.reports) == sum(map(len, rows))
    assert all(report.computed_tokens == report.real_tokens for report in observer.reports)


def test_what_arrives_while_the_engine_runs_is_batched_together(make):
    engine = FakeEngine()
    engine.gate.clear()
    scheduler, _ = make(engine)
    first = submit(scheduler, rows_of([10]))
    assert engine.running.wait(5)
    others = [submit(scheduler, rows_of([12])) for _ in range(5)]
    engine.gate.set()
    for answer in [first, *others]:
        answer.wait()
    assert engine.batches == [[10], [12] * 5]


def test_a_full_queue_refuses_at_once_while_the_engine_is_busy(make):
    engine = FakeEngine()
    engine.gate.clear()
    scheduler, _ = make(engine, max_queue_tokens=100)
    running = submit(scheduler, rows_of([50]))
    assert engine.running.wait(5)
    waiting = submit(scheduler, rows_of([90]))
    with pytest.raises(Overloaded):
        submit(scheduler, rows_of([11]))
    engine.gate.set()
    running.wait()
    waiting.wait()


def test_an_expired_request_is_answered_and_not_computed(make):
    engine, clock = FakeEngine(), Clock()
    engine.gate.clear()
    scheduler, observer = make(engine, clock=clock)
    first = submit(scheduler, rows_of([3]))
    assert engine.running.wait(5)
    late = submit(scheduler, rows_of([7]), deadline_s=5.0)
    clock.now = 6.0
    engine.gate.set()
    first.wait()
    assert str(late.wait()).startswith("deadline exceeded")
    scheduler.close(drain_timeout_s=1)
    assert [7] not in engine.batches
    assert observer.dropped == ["expired"]


def test_an_engine_failure_reaches_exactly_the_rows_concerned(make):
    engine = FakeEngine(poison=999, nan=888)
    engine.gate.clear()
    scheduler, observer = make(engine)
    hold = submit(scheduler, rows_of([64]))
    assert engine.running.wait(5)
    good = [submit(scheduler, rows_of([8], start=i)) for i in range(3)]
    bad = submit(scheduler, [np.array([1, 2, 999, 4, 5, 6, 7], np.int32), *rows_of([8, 60, 60])])
    overflown = submit(scheduler, [np.array([888] * 8, np.int32)])
    engine.gate.set()
    hold.wait()
    for i, answer in enumerate(good):
        np.testing.assert_array_equal(answer.wait(), [vector_of(rows_of([8], start=i)[0])])
    error = bad.wait()
    assert isinstance(error, EngineFailed)
    assert "poisoned" in str(error)
    assert "7 tokens" in str(error)
    assert "NaN" in str(overflown.wait())
    after = submit(scheduler, rows_of([9]))
    np.testing.assert_array_equal(after.wait(), [vector_of(rows_of([9])[0])])
    scheduler.close(drain_timeout_s=1)
    assert sum(report.failed_rows for report in observer.reports) == 2


def test_the_report_counts_what_the_engine_computed(make):
    for padded, tokens in ((False, 3 + 5), (True, 2 * 5)):
        engine = FakeEngine(padded=padded)
        engine.gate.clear()
        scheduler, observer = make(engine, padded=padded)
        hold = submit(scheduler, rows_of([64]))
        assert engine.running.wait(5)
        answer = submit(scheduler, rows_of([3, 5]))
        engine.gate.set()
        hold.wait(), answer.wait()
        scheduler.close(drain_timeout_s=5)
        report = observer.reports[-1]
        assert (report.real_tokens, report.computed_tokens) == (8, tokens)
        assert (report.real_attention_cells, report.computed_attention_cells) == (34, 50)


def test_the_report_counts_what_the_engine_did_not_have_to_compute(make):
    engine = FakeEngine()
    engine.computed_work = lambda ids, lengths: packed_work(ids[3:], lengths, kept_tokens=1)
    scheduler, observer = make(engine)
    submit(scheduler, rows_of([5])).wait()
    scheduler.close(drain_timeout_s=5)
    [report] = observer.reports
    assert (report.real_tokens, report.computed_tokens) == (5, 2)
    assert (report.shared_tokens, report.kept_tokens) == (2, 1)


def test_a_row_that_overflows_does_not_spoil_those_that_share_tokens_with_it(make):
    class Sharing(FakeEngine):
        def encode(self, input_ids, row_lengths):
            vectors = FakeEngine.encode(self, input_ids, row_lengths)
            vectors[:] = np.nan if np.isnan(vectors).any() else vectors
            return vectors

    engine = Sharing(nan=888)
    engine.computed_work = lambda ids, lengths: packed_work(ids[len(lengths) - 1 :], lengths)
    scheduler, observer = make(engine)
    rows = rows_of([4, 5])
    both = submit(scheduler, rows)
    np.testing.assert_array_equal(both.wait(), [vector_of(row) for row in rows])
    engine.gate.clear()
    hold = submit(scheduler, rows_of([64]))
    assert engine.running.wait(5)
    good = submit(scheduler, rows)
    bad = submit(scheduler, [np.array([888] * 6, np.int32)])
    engine.gate.set()
    hold.wait()
    np.testing.assert_array_equal(good.wait(), [vector_of(row) for row in rows])
    assert "NaN" in str(bad.wait())
    scheduler.close(drain_timeout_s=5)
    assert engine.batches[-4:] == [[4, 5, 6], [4], [5], [6]]
    assert observer.reports[-1].failed_rows == 1


def test_work_that_cannot_be_counted_costs_its_own_rows_alone(make):
    def fails(ids, lengths):
        raise MemoryError

    engine = FakeEngine()
    count, engine.computed_work = engine.computed_work, fails
    scheduler, _ = make(engine)
    assert isinstance(submit(scheduler, rows_of([4])).wait(), EngineFailed)
    engine.computed_work = count
    assert len(submit(scheduler, rows_of([4])).wait()) == 1


def test_what_is_tried_again_is_counted_again(make):
    engine = FakeEngine(poison=999)
    scheduler, observer = make(engine)
    bad = submit(scheduler, [np.array([999, 1], np.int32), *rows_of([4])])
    assert isinstance(bad.wait(), EngineFailed)
    scheduler.close(drain_timeout_s=5)
    assert engine.batches == [[2, 4], [2], [4]]
    [report] = observer.reports
    assert (report.real_tokens, report.computed_tokens) == (6, 12)
    assert report.computed_attention_cells == 2 * 16 + 4 + 16


def test_a_padded_batch_keeps_within_its_tokens_even_when_rows_are_overdue(make):
    engine = FakeEngine(padded=True)
    engine.gate.clear()
    scheduler, _ = make(engine, padded=True)
    lengths = [1, 30, 2, 60, 5, 33, 3, 20] * 12
    answers = [submit(scheduler, rows_of([length])) for length in lengths]
    engine.gate.set()
    for answer in answers:
        answer.wait()
    assert all(len(batch) * max(batch) <= PREFERRED for batch in engine.batches)
    assert max(map(len, engine.batches)) > 4


def test_the_rest_of_a_failed_request_is_not_computed(make):
    engine = FakeEngine(poison=999)
    engine.gate.clear()
    scheduler, _ = make(engine)
    bad = submit(scheduler, [np.array([999], np.int32), *rows_of([64] * 5)])
    engine.gate.set()
    assert isinstance(bad.wait(), EngineFailed)
    scheduler.close(drain_timeout_s=5)
    assert engine.batches == [[1]]


def test_a_callback_that_raises_harms_nobody_else(make):
    scheduler, _ = make(FakeEngine())

    def broken(answer):
        raise ConnectionError("client went away")

    scheduler.submit(EncodeRequest(rows_of([5]), broken))
    submit(scheduler, rows_of([6])).wait()


def test_closing_answers_everything_in_flight(make):
    engine = FakeEngine()
    engine.gate.clear()
    scheduler, _ = make(engine)
    answers = [submit(scheduler, rows_of([50])) for _ in range(6)]
    closer = threading.Thread(target=scheduler.close, kwargs={"drain_timeout_s": 10})
    closer.start()

    def submit_until_it_closes():
        deadline = time.monotonic() + 8
        while time.monotonic() < deadline:
            answers.append(submit(scheduler, rows_of([1])))
            time.sleep(0.005)

    with pytest.raises(ShuttingDown):
        submit_until_it_closes()
    engine.gate.set()
    closer.join(10)
    for answer in answers:
        assert isinstance(answer.wait(0), np.ndarray)


def test_closing_past_the_drain_time_answers_the_rest_with_an_error(make):
    engine = FakeEngine()
    engine.gate.clear()
    scheduler, observer = make(engine)
    answers = [submit(scheduler, rows_of([50])) for _ in range(3)]
    assert engine.running.wait(5)
    closer = threading.Thread(target=scheduler.close, kwargs={"drain_timeout_s": 0.05})
    closer.start()
    assert all(isinstance(answer.wait(), ShuttingDown) for answer in answers[1:])
    engine.gate.set()
    closer.join(10)
    assert isinstance(answers[0].wait(0), np.ndarray)
    assert observer.dropped == ["shutting_down"] * 2


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.lists(st.integers(1, 90), min_size=1, max_size=5),  # lengths
            st.booleans(),  # bulk
            st.sampled_from(["fine", "fine", "fine", "cancelled", "expired", "poisoned"]),
        ),
        max_size=30,
    ),
    st.integers(100, 2000),
)
def test_every_request_is_answered_once_and_with_its_own_vectors(requests, max_queue_tokens):
    engine = FakeEngine(poison=10**6)
    observer = Observer()
    queue = RowQueue(
        BatchLimits(preferred_tokens=PREFERRED, max_rows=16),
        CostModel(attention_cell_cost=1e-3, overhead_tokens=8),
        max_queue_tokens=max_queue_tokens,
        bulk_queue_fraction=1.0,
        bulk_every=4,
    )
    scheduler = Scheduler(engine, queue, observer, clock=lambda: 100.0)
    pending, refused = [], []
    start = 1
    for lengths, bulk, fate in requests:
        rows = rows_of(lengths, start)
        start += 1000
        if fate == "poisoned":
            rows[-1][-1] = 10**6
        answer = Answer()
        request = EncodeRequest(
            rows,
            answer,
            service_class=ServiceClass.BULK if bulk else ServiceClass.INTERACTIVE,
            deadline_s=50.0 if fate == "expired" else None,
            is_cancelled=lambda fate=fate: fate == "cancelled",
        )
        try:
            scheduler.submit(request)
        except (Overloaded, InvalidRows):
            refused.append(answer)
        else:
            pending.append((rows, fate, answer))
    scheduler.close(drain_timeout_s=30)
    assert not any(answer.values for answer in refused)
    for rows, fate, answer in pending:
        value = answer.wait(0)  # exactly one answer, whatever became of the request
        if fate == "fine":
            np.testing.assert_array_equal(value, [vector_of(row) for row in rows])
        else:
            names = {"cancelled": "RequestCancelled", "expired": "DeadlineExpired",
                     "poisoned": "EngineFailed"}  # fmt: skip
            assert type(value).__name__ == names[fate]
    assert all(sum(batch) <= PREFERRED or len(batch) == 1 for batch in engine.batches)


def test_tokens_of_requests_that_were_given_up_are_no_longer_shown_as_waiting(make):
    clock = Clock()
    engine, scheduler, observer, first = at_work(make, clock=clock)
    late = submit(scheduler, rows_of([50]), deadline_s=1.0)
    clock.now = 2.0
    engine.gate.set()
    assert first.wait() is not None
    assert isinstance(late.wait(), DeadlineExpired)
    scheduler.close(drain_timeout_s=10)  # what was put on the answering thread has been done
    assert observer.queue_tokens == 0


def test_tokens_of_a_request_that_failed_are_no_longer_shown_as_waiting(make):
    engine, scheduler, observer, first = at_work(make, FakeEngine(poison=70), length=1)
    failing = submit(scheduler, rows_of([60, 60, 60], start=50))  # a batch each
    engine.gate.set()
    assert first.wait() is not None
    assert isinstance(failing.wait(), EngineFailed)
    scheduler.close(drain_timeout_s=10)
    assert observer.queue_tokens == 0


def test_a_request_whose_caller_cannot_be_asked_for_is_computed_and_harms_no_other(make):
    def broken():
        raise RuntimeError("the channel is gone")

    clock = Clock()
    engine, scheduler, _, first = at_work(make, clock=clock)
    late = submit(scheduler, rows_of([5]), deadline_s=1.0)
    unknown = submit(scheduler, rows_of([6]), is_cancelled=broken)
    clock.now = 2.0
    engine.gate.set()
    assert first.wait() is not None
    assert isinstance(late.wait(5), DeadlineExpired)
    np.testing.assert_array_equal(unknown.wait(), [vector_of(rows_of([6])[0])])

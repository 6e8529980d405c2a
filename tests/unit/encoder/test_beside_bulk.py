"""Interactive rows are computed beside a bulk batch, on an engine that can."""

from __future__ import annotations

import time

import numpy as np
import pytest
from encode_errors import EngineFailed
from encode_request import ServiceClass

from unit.encoder.fakes import FakeEngine, vector_of
from unit.encoder.test_scheduler import make, rows_of, submit

__all__ = ["make"]  # a fixture

BULK = 1000
"""Tokens from here on are bulk's."""


class BesideEngine(FakeEngine):
    """Bulk batches wait at the gate, interactive ones do not; both can be inside at a time."""

    runs_beside = True
    inside = 0
    most_inside = 0

    def wait(self, input_ids):
        self.inside += 1
        self.most_inside = max(self.most_inside, self.inside)
        try:
            if input_ids[0] >= BULK:
                super().wait(input_ids)
        finally:
            self.inside -= 1


def bulk(scheduler, lengths):
    return submit(scheduler, rows_of(lengths, start=BULK), service_class=ServiceClass.BULK)


@pytest.fixture
def engine():
    made = BesideEngine(poison=77)
    made.gate.clear()
    return made


def test_interactive_rows_do_not_wait_for_the_bulk_batch_that_runs(make, engine):
    scheduler, observer = make(engine)
    first = bulk(scheduler, [60])
    assert engine.running.wait(30)
    second = bulk(scheduler, [61])
    for start in range(1, 9):
        rows = rows_of([3, 4], start=start)
        np.testing.assert_array_equal(
            submit(scheduler, rows).wait(), [vector_of(row) for row in rows]
        )
    assert not first.arrived.is_set()
    assert engine.batches == [[3, 4]] * 8
    assert engine.most_inside == 2
    engine.gate.set()
    first.wait()
    second.wait()
    scheduler.close(drain_timeout_s=10)
    assert len(observer.reports) == 10
    assert sum(report.real_tokens for report in observer.reports) == 8 * 7 + 60 + 61


def test_no_third_batch_is_begun(make, engine):
    """While both are busy, rows of either class wait and are put together."""
    scheduler, _ = make(engine)
    first = bulk(scheduler, [60])
    assert engine.running.wait(30)
    engine.running.clear()
    held = submit(scheduler, rows_of([5], start=BULK))  # interactive, but held at the gate
    assert engine.running.wait(30)
    waiting = [submit(scheduler, rows_of([6])) for _ in range(3)]
    waiting.append(bulk(scheduler, [62]))
    time.sleep(0.1)
    assert not any(answer.arrived.is_set() for answer in waiting)
    engine.gate.set()
    for answer in [first, held, *waiting]:
        answer.wait()
    assert engine.most_inside <= 2
    assert [6, 6, 6] in engine.batches


def test_beside_an_interactive_batch_nothing_is_begun(make, engine):
    scheduler, _ = make(engine)
    first = submit(scheduler, rows_of([5], start=BULK))  # interactive
    assert engine.running.wait(30)
    second = submit(scheduler, rows_of([6]))
    third = bulk(scheduler, [60])
    time.sleep(0.1)
    assert not second.arrived.is_set()
    engine.gate.set()
    for answer in (first, second, third):
        answer.wait()
    assert engine.most_inside == 1


def test_an_engine_that_cannot_is_not_asked_to(make, engine):
    engine.runs_beside = False
    scheduler, _ = make(engine)
    first = bulk(scheduler, [60])
    assert engine.running.wait(30)
    second = submit(scheduler, rows_of([6]))
    time.sleep(0.1)
    assert not second.arrived.is_set()
    engine.gate.set()
    first.wait()
    second.wait()
    assert engine.most_inside == 1


def test_a_failure_beside_is_its_rows_own(make, engine):
    scheduler, _ = make(engine)
    first = bulk(scheduler, [60])
    assert engine.running.wait(30)
    poisoned = submit(scheduler, rows_of([3], start=76))
    assert isinstance(poisoned.wait(), EngineFailed)
    good = submit(scheduler, rows_of([3]))
    assert not isinstance(good.wait(), EngineFailed)
    engine.gate.set()
    first.wait()


def test_closing_works_off_what_is_beside(make, engine):
    scheduler, _ = make(engine)
    first = bulk(scheduler, [60])
    assert engine.running.wait(30)
    engine.running.clear()
    held = submit(scheduler, rows_of([5], start=BULK))
    assert engine.running.wait(30)
    waiting = submit(scheduler, rows_of([6]))
    engine.gate.set()
    scheduler.close(drain_timeout_s=10)
    for answer in (first, held, waiting):
        assert len(answer.values) == 1

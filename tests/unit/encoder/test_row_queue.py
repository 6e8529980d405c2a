import math

import numpy as np
import pytest
from batch_planner import BatchLimits, CostModel
from encode_errors import DeadlineExpired, InvalidRows, Overloaded, RequestCancelled
from encode_request import EncodeRequest, ServiceClass
from hypothesis import given, settings
from hypothesis import strategies as st
from row_queue import RowQueue

PREFERRED, MAX_ROWS = 64, 16


def make_queue(
    max_queue_tokens=1000, bulk_queue_fraction=0.5, bulk_every=3, attention_cell_cost=1e-3,
    padded=False, shares_prefixes=False,
):  # fmt: skip
    return RowQueue(
        BatchLimits(preferred_tokens=PREFERRED, max_rows=MAX_ROWS),
        CostModel(
            attention_cell_cost=attention_cell_cost, overhead_tokens=8, padded=padded,
            shares_prefixes=shares_prefixes,
        ),
        max_queue_tokens=max_queue_tokens,
        bulk_queue_fraction=bulk_queue_fraction,
        bulk_every=bulk_every,
    )  # fmt: skip


def request(lengths, *, bulk=False, **options):
    rows = [np.full(length, index + 1, np.int32) for index, length in enumerate(lengths)]
    kind = ServiceClass.BULK if bulk else ServiceClass.INTERACTIVE
    return EncodeRequest(rows, lambda answer: None, service_class=kind, **options)


def test_a_full_queue_refuses_the_whole_request_and_keeps_the_rest():
    queue = make_queue(max_queue_tokens=100)
    queue.add(request([60]))
    with pytest.raises(Overloaded, match=r"^overloaded: 60 of 100 .* has 41"):
        queue.add(request([1, 40]))
    assert (len(queue), queue.tokens) == (1, 60)
    queue.add(request([40]))
    assert queue.tokens == 100


def test_a_request_that_could_never_wait_is_invalid_not_overload():
    with pytest.raises(InvalidRows, match="fewer texts"):
        make_queue(max_queue_tokens=100).add(request([60, 60]))


def test_bulk_leaves_room_for_interactive():
    queue = make_queue(max_queue_tokens=100, bulk_queue_fraction=0.5)
    queue.add(request([50], bulk=True))
    with pytest.raises(Overloaded):
        queue.add(request([1], bulk=True))
    queue.add(request([50]))


def test_interactive_goes_first_and_bulk_is_not_starved():
    queue = make_queue(max_queue_tokens=100_000, bulk_every=3)
    for _ in range(20):
        queue.add(request([PREFERRED], bulk=True))
        queue.add(request([PREFERRED]))
    classes = [queue.next_batch(0)[0][0].request.service_class.value[0] for _ in range(12)]
    assert "".join(classes) == "iibiibiibiib"


def test_bulk_that_waited_for_nobody_has_no_claim_on_the_next_batch():
    queue = make_queue(max_queue_tokens=100_000, bulk_every=3)
    for _ in range(5):  # no bulk waits: these count for nothing
        queue.add(request([PREFERRED]))
        queue.next_batch(0)
    queue.add(request([PREFERRED], bulk=True))
    queue.add(request([PREFERRED]))
    assert queue.next_batch(0)[0][0].request.service_class is ServiceClass.INTERACTIVE


def test_expired_requests_are_dropped_whole_before_compute():
    queue = make_queue()
    late, fine = request([5, 5], deadline_s=10.0), request([5], deadline_s=11.0)
    queue.add(late)
    queue.add(fine)
    rows, dropped = queue.next_batch(10.0)
    assert [row.request for row in rows] == [fine]
    [(gone, error)] = dropped
    assert gone is late
    assert isinstance(error, DeadlineExpired)
    assert str(error).startswith("deadline exceeded:")
    assert queue.tokens == 0


def test_cancelled_requests_are_dropped_and_the_batch_is_formed_anew():
    queue = make_queue()
    gone, fine = request([5], is_cancelled=lambda: True), request([50])
    queue.add(gone)
    queue.add(fine)
    rows, dropped = queue.next_batch(0)
    assert [row.request for row in rows] == [fine]
    assert [(r, type(e)) for r, e in dropped] == [(gone, RequestCancelled)]


def test_when_everything_is_dropped_there_is_no_batch():
    queue = make_queue()
    queue.add(request([5], deadline_s=1.0))
    rows, dropped = queue.next_batch(2.0)
    assert rows == []
    assert len(dropped) == 1
    assert len(queue) == queue.tokens == 0


@settings(deadline=None)
@given(st.lists(st.tuples(st.lists(st.integers(1, 90), min_size=1, max_size=6),
                          st.booleans(), st.integers(0, 2)), max_size=40))  # fmt: skip
def test_every_row_is_served_once_within_limits_and_by_its_turn(arrivals):
    """Random arrivals with batches in between: nothing lost, doubled, or late."""
    queue = make_queue(max_queue_tokens=10_000)
    served, admitted = [], []
    batch_number = dict.fromkeys(ServiceClass, 0)
    due = {}  # row -> the batch of its class by which it must have been served

    def serve():
        rows, dropped = queue.next_batch(0.0)
        assert not dropped
        if not rows:
            return False
        [kind] = {row.request.service_class for row in rows}
        lengths = [len(row.tokens) for row in rows]
        assert sum(lengths) <= PREFERRED or len(rows) == 1
        assert len(rows) <= MAX_ROWS
        waiting = [
            row for row in admitted if row not in served and row.request.service_class is kind
        ]
        assert rows[0] in waiting
        assert min(waiting, key=lambda row: row.arrival) in rows  # the oldest is in every batch
        for row in rows:
            assert row not in served
            assert batch_number[kind] <= due[id(row)]
            older_equals = [o for o in waiting if len(o.tokens) == len(row.tokens)
                            and o.arrival < row.arrival]  # fmt: skip
            assert all(o in rows for o in older_equals), "overtaken by a row of its own length"
        served.extend(rows)
        batch_number[kind] += 1
        return True

    for lengths, bulk, batches in arrivals:
        new = request(lengths, bulk=bulk)
        try:
            queue.add(new)
        except Overloaded:
            continue
        kind = new.service_class
        for row in new.rows:
            admitted.append(row)
            ahead = [r for r in admitted if r not in served and r.request.service_class is kind]
            tokens_ahead = sum(len(r.tokens) for r in ahead[:-1])
            # twice the batches in order of arrival, twice again while others are overdue, slack
            due[id(row)] = batch_number[kind] + 4 * math.ceil(tokens_ahead / PREFERRED) + 9
        for _ in range(batches):
            serve()
    while serve():
        pass
    assert sorted(row.arrival for row in served) == [row.arrival for row in admitted]
    assert queue.tokens == 0


def test_a_row_of_odd_length_is_not_overtaken_for_ever():
    """A steady stream of short rows, always a full batch of them, and one long row behind."""
    queue = make_queue(max_queue_tokens=10_000)
    for _ in range(16):
        queue.add(request([4]))
    odd = request([40])
    queue.add(odd)

    def odd_is_in_next_batch():
        queue.add(request([4] * 16))
        return any(row.request is odd for row in queue.next_batch(0)[0])

    assert any(odd_is_in_next_batch() for _ in range(12))


@pytest.mark.parametrize(("padded", "rows"), [(False, [1, 30, 20]), (True, [1, 30])])
def test_overdue_rows_keep_within_the_computed_tokens_of_a_batch(padded, rows):
    queue = make_queue(padded=padded)
    overdue = request([1, 30, 20])
    queue.add(overdue)
    for row in overdue.rows:
        row.turn = 0
    assert [len(row.tokens) for row in queue.next_batch(0)[0]] == rows


@pytest.mark.parametrize(("in_stream", "size"), [(False, 1.0), (True, 0.5)])
def test_newcomers_that_fit_better_overtake_only_for_a_time(in_stream, size):
    """At each batch there are enough newcomers of just the oldest row's length to fill it."""
    queue = make_queue(max_queue_tokens=100_000, attention_cell_cost=100.0)
    first = request(range(1, 21))
    queue.add(first)
    turns = {row.turn for row in first.rows}
    assert max(turns) <= 2 * math.ceil(210 / PREFERRED) + 8
    waiting = set(map(id, first.rows))
    batches = 0.0
    while waiting:
        oldest = next(len(row.tokens) for row in first.rows if id(row) in waiting)
        queue.add(request([oldest] * (PREFERRED // oldest - 1)))
        rows, _ = queue.next_batch(0, in_stream=in_stream)
        assert all(batches <= row.turn for row in rows if id(row) in waiting)
        waiting -= set(map(id, rows))
        batches += size
    assert batches <= max(turns) + 4  # in order of arrival from then on


def probe(lengths=(5,), **options):
    rows = [np.ones(length, np.int32) for length in lengths]
    return EncodeRequest(rows, lambda answer: None, service_class=ServiceClass.PROBE, **options)


def served(queue):
    return queue.next_batch(0)[0][0].request


def test_a_probe_passes_all_that_waits_and_no_full_queue_refuses_it():
    queue = make_queue(max_queue_tokens=100)
    queue.add(request([50], bulk=True))
    queue.add(request([50]))
    asked = probe()
    queue.add(asked)
    assert served(queue) is asked
    assert served(queue).service_class is ServiceClass.INTERACTIVE
    assert queue.tokens == 50


def test_many_probes_do_not_keep_the_others_from_their_turn():
    queue = make_queue(max_queue_tokens=100_000, bulk_every=3)
    for _ in range(4):
        queue.add(request([PREFERRED], bulk=True))
        queue.add(request([PREFERRED]))
    order = ""
    for _ in range(8):
        queue.add(probe([60]))
        order += served(queue).service_class.value[0]
    assert order == "pipipbpi"  # bulk's third turn comes as if no probe had been


def test_probes_go_on_when_nothing_else_waits():
    queue = make_queue()
    for _ in range(3):
        queue.add(probe([60]))
    assert [served(queue).service_class for _ in range(3)] == [ServiceClass.PROBE] * 3


def test_a_probe_beside_bulk_and_one_too_late():
    queue = make_queue()
    queue.add(request([50], bulk=True))
    assert not queue.interactive_waits
    queue.add(request([50]))
    late, asked = probe(deadline_s=-1.0), probe()
    queue.add(late)
    queue.add(asked)
    assert queue.interactive_waits
    rows, [(dropped, error)] = queue.next_interactive_batch(0)
    assert rows[0].request is asked
    assert dropped is late
    assert isinstance(error, DeadlineExpired)


@pytest.mark.parametrize("lengths", [(129,), (5, 5)])
def test_a_probe_is_one_short_text(lengths):
    with pytest.raises(InvalidRows, match="one text of at most 128 tokens"):
        make_queue(max_queue_tokens=100_000).add(probe(lengths))


def test_probes_that_nobody_computes_are_refused_in_the_end():
    queue = make_queue()
    for _ in range(8):
        queue.add(probe([128]))
    with pytest.raises(Overloaded, match=r"^overloaded: 1024 tokens of probes"):
        queue.add(probe())


@pytest.mark.parametrize(
    ("lengths", "fills"),
    [
        ([], 0),
        ([PREFERRED // 2 - 1], 0),
        ([PREFERRED // 2], 1),
        ([1] * PREFERRED, 2),
        ([PREFERRED // 2, PREFERRED // 2 - 1], 1),
        ([900], 1),
        ([900, PREFERRED // 2], 2),
    ],
)
def test_streams_are_filled_by_half_a_batch_each(lengths, fills):
    queue = make_queue()
    for length in lengths:
        queue.add(request([length], bulk=bool(length % 2)))
    assert [queue.fills_streams(streams) for streams in (1, 2, 3)] == [
        fills >= streams for streams in (1, 2, 3)
    ]


def test_a_streams_batch_is_half_as_large():
    queue = make_queue()
    queue.add(request([8] * 16))
    rows, _ = queue.next_batch(0, in_stream=True)
    assert sum(len(row.tokens) for row in rows) == PREFERRED // 2
    rows, _ = queue.next_batch(0)
    assert sum(len(row.tokens) for row in rows) == PREFERRED


@pytest.mark.parametrize(("in_stream", "batches"), [(False, 6), (True, 3)])
def test_turns_are_counted_in_whole_batches(in_stream, batches):
    """A stream's is half of one, so a row may be overtaken by as many tokens as ever."""
    queue = make_queue()
    before, after = request([8]), request([8])
    queue.add(before)
    for _ in range(6):
        queue.next_batch(0, in_stream=in_stream)
        queue.add(request([8]))
    queue.next_batch(0)
    queue.add(after)
    assert after.rows[0].turn - before.rows[0].turn == batches + 1


@pytest.mark.parametrize(("shares_prefixes", "rows"), [(False, 3), (True, 5)])
def test_rows_that_begin_alike_fill_a_batch_with_what_has_to_be_computed(shares_prefixes, rows):
    queue = make_queue(shares_prefixes=shares_prefixes)
    prompt = np.arange(10, dtype=np.int32)
    for number in range(12):  # 20 tokens each, and the first ten of all are the same
        row = np.concatenate([prompt, np.full(10, 100 + number, np.int32)])
        queue.add(EncodeRequest([row], lambda answer: None))
    batch, _ = queue.next_batch(0.0)
    assert len(batch) == rows  # 64 tokens: 3 times 20, or 20 and 4 times 10


@pytest.mark.parametrize(("shares_prefixes", "rows"), [(False, 3), (True, 5)])
def test_overdue_rows_that_begin_alike_fill_a_batch_likewise(shares_prefixes, rows):
    queue = make_queue(shares_prefixes=shares_prefixes)
    prompt = np.arange(10, dtype=np.int32)
    for number in range(12):
        row = np.concatenate([prompt, np.full(10, 100 + number, np.int32)])
        queue.add(EncodeRequest([row], lambda answer: None))
    for row in queue._classes[ServiceClass.INTERACTIVE].rows:
        row.turn = -1
    batch, _ = queue.next_batch(0.0)
    assert [row.arrival for row in batch] == list(range(rows))


def test_overdue_copies_of_one_text_are_bounded_by_their_tokens():
    queue = make_queue(shares_prefixes=True)
    for _ in range(12):
        queue.add(request([20]))
    for row in queue._classes[ServiceClass.INTERACTIVE].rows:
        row.turn = -1
    batch, _ = queue.next_batch(0.0)
    assert len(batch) == 6  # 120 of at most twice 64

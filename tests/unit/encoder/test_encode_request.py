import gc
import weakref

import numpy as np
import pytest
from encode_errors import EngineFailed, InvalidRows
from encode_request import EncodeRequest, ServiceClass, parse_service_class, rows_from_tensors


def ids(*rows):
    longest = max(map(len, rows))
    return np.array([[*row, *[0] * (longest - len(row))] for row in rows], np.int32)


def lengths(*values):
    return np.array([[value] for value in values], np.int32)


def cut(input_ids, row_lengths, **limits):
    return rows_from_tensors(
        input_ids, row_lengths, **{"max_length": 4, "vocab_size": 10, **limits}
    )


def test_rows_are_cut_to_their_lengths_and_do_not_share_the_tensors_memory():
    tensor = ids([1, 2, 3], [4])
    rows = cut(tensor, lengths(3, 1))
    tensor[:] = 9
    assert [row.tolist() for row in rows] == [[1, 2, 3], [4]]
    assert all(row.dtype == np.int32 for row in rows)


def test_padding_may_hold_anything():
    tensor = ids([1, 2], [3])
    tensor[1, 1] = 10**6
    assert cut(tensor, lengths(2, 1))[1].tolist() == [3]


@pytest.mark.parametrize(
    ("input_ids", "row_lengths", "message"),
    [
        (ids([1, 2]), lengths(0), "row 0 has length 0"),
        (ids([1, 2]), lengths(3), "row 0 has length 3.* INPUT_IDS is 2 wide"),
        (ids([1], [1]), lengths(1, -1), "row 1 has length -1"),
        (ids([1] * 6), lengths(5), "the model's limit is 4"),
        (ids([1, 10]), lengths(2), "token ids from 1 to 10; the vocabulary is 0 to 9"),
        (ids([-1]), lengths(1), "token ids from -1"),
        (ids([1]), lengths(1, 1), r"shape \(1, 1\) and ROW_LENGTHS \(2, 1\)"),
        (np.array([1], np.int32), lengths(1), "shape"),
        (np.empty((0, 3), np.int32), np.empty((0, 1), np.int32), "at least one row"),
    ],
)
def test_tensors_that_are_not_rows_are_refused(input_ids, row_lengths, message):
    with pytest.raises(InvalidRows, match=message):
        cut(input_ids, row_lengths)


def test_service_classes():
    assert parse_service_class(None) is ServiceClass.INTERACTIVE
    assert parse_service_class("bulk") is ServiceClass.BULK
    with pytest.raises(InvalidRows, match=r"'urgent'.*'interactive', 'bulk'"):
        parse_service_class("urgent")


def test_a_service_class_of_any_length_is_refused_in_few_words():
    with pytest.raises(InvalidRows, match=r"is 'x{79}\.\.\.; send one of 'interactive'") as refused:
        parse_service_class("x" * 100_000)
    assert len(str(refused.value)) < 200


def test_an_answer_is_given_once_when_the_last_row_is_there():
    answers = []
    request = EncodeRequest([np.ones(1, np.int32)] * 2, answers.append)
    request.add_vector(1, np.array([3, 4], np.float32))
    assert answers == []
    request.add_vector(0, np.array([1, 2], np.float32))
    request.fail(EngineFailed("late"))
    [vectors] = answers
    np.testing.assert_array_equal(vectors, [[1, 2], [3, 4]])


def test_a_failed_request_takes_no_more_vectors():
    answers = []
    request = EncodeRequest([np.ones(1, np.int32)], answers.append)
    request.fail(EngineFailed("broken"))
    request.fail(EngineFailed("again"))
    request.add_vector(0, np.zeros(2, np.float32))
    assert [str(answer) for answer in answers] == ["broken"]


@pytest.mark.parametrize("fails", [False, True])
def test_an_answered_request_lets_go_of_what_triton_lent_it_at_once(fails):
    """Its request's shared memory, which would wait for the cycle collector."""

    class Lent:
        def is_cancelled(self):
            return False

    lent = Lent()
    request = EncodeRequest(
        [np.ones(2, np.int32)], lambda answer: None, is_cancelled=lent.is_cancelled
    )
    gone = weakref.ref(lent)
    gc.disable()
    try:
        if fails:
            request.fail(EngineFailed("no"))
        else:
            request.add_vector(0, np.ones(3, np.float32))
        del request, lent
        assert gone() is None
    finally:
        gc.enable()

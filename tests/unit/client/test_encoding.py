"""Forming requests from texts."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lasttoken.encoding import MAX_PADDED_BYTES, split_rows


@given(
    lengths=st.lists(st.integers(0, 5000) | st.integers(0, 3 * MAX_PADDED_BYTES), max_size=200),
    max_rows=st.integers(1, 64),
)
def test_every_row_is_in_one_request_and_both_bounds_hold(lengths, max_rows):
    requests = split_rows(lengths, max_rows)
    assert sorted(row for rows in requests for row in rows) == list(range(len(lengths)))
    for rows in requests:
        longest = max(lengths[row] for row in rows)
        assert 1 <= len(rows) <= max_rows
        assert len(rows) == 1 or len(rows) * longest <= MAX_PADDED_BYTES
    longest_of = [max(lengths[row] for row in rows) for rows in requests]
    assert longest_of == sorted(longest_of, reverse=True)


def test_rows_of_one_request_are_similar_in_length():
    lengths = list(np.random.default_rng(0).permutation(np.repeat([10, 100, 1000], 32)))
    requests = split_rows(lengths, 32)
    assert [{int(lengths[row]) for row in rows} for rows in requests] == [{1000}, {100}, {10}]


def test_equal_lengths_keep_their_order():
    assert [list(rows) for rows in split_rows([5] * 7, 3)] == [[0, 1, 2], [3, 4, 5], [6]]

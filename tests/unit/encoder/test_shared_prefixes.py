import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shared_prefixes import share_prefixes, shared_with_first

ROWS = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=8), min_size=1, max_size=9)
"""Of three tokens: many begin alike."""


def arrays(rows):
    return [np.array(row, np.int32) for row in rows]


def share(rows):
    lengths = np.array([len(row) for row in rows], np.int32)
    return share_prefixes(np.concatenate(arrays(rows)), lengths)


@given(ROWS)
def test_each_row_is_read_back_from_the_tokens(rows):
    shared = share(rows)
    longest = max(map(len, rows))
    assert shared.token_of_slot.shape == (len(rows), longest)
    for row, tokens in zip(rows, shared.token_of_slot, strict=True):
        assert shared.input_ids[tokens[: len(row)]].tolist() == row
        assert set(tokens[len(row) :]) <= {tokens[len(row) - 1]}


@given(ROWS)
def test_a_token_is_there_once_for_each_different_beginning(rows):
    """As many as a trie of the rows has nodes, and in each slot that of the row's beginning."""
    beginnings = {tuple(row[:end]) for row in rows for end in range(1, len(row) + 1)}
    shared = share(rows)
    assert len(shared.input_ids) == len(beginnings)
    shown = {
        (tuple(row[: place + 1]), tokens[place])
        for row, tokens in zip(rows, shared.token_of_slot, strict=True)
        for place in range(len(row))
    }
    assert len(shown) == len(beginnings)


@given(ROWS)
def test_each_token_knows_a_slot_that_shows_it(rows):
    shared = share(rows)
    longest = max(map(len, rows))
    assert len(shared.slot_of_token) == len(shared.input_ids)
    shown = shared.token_of_slot.ravel()[shared.slot_of_token]
    assert shown.tolist() == list(range(len(shared.input_ids)))
    row, place = np.divmod(shared.slot_of_token, longest)
    assert (place < np.array([len(rows[index]) for index in row])).all()


@given(ROWS)
def test_tokens_shared_with_the_first_row_are_counted(rows):
    def common(row):
        pairs = zip(rows[0], row, strict=False)
        return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(rows[0]), len(row)))

    expected = [0, *(common(row) for row in rows[1:])]
    assert shared_with_first(arrays(rows)).tolist() == expected


def test_types_are_the_graphs():
    for rows in ([[5, 6]], [[5, 6], [5, 7, 8]]):
        shared = share(rows)
        kinds = {shared.input_ids.dtype, shared.token_of_slot.dtype, shared.slot_of_token.dtype}
        assert kinds == {np.dtype(np.int32)}


@pytest.mark.parametrize("tokens", [[1, 256], [256, 1], [65536, 1, 256]])
def test_rows_are_compared_by_tokens_and_not_by_bytes(tokens):
    """1, 256 and 65,536 have bytes in common, in other places."""
    rows = [[7, token, 9] for token in tokens]
    assert len(share(rows).input_ids) == 1 + 2 * len(tokens)

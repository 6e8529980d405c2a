import numpy as np
import pytest
from batch_planner import BatchLimits, CostModel, choose_rows
from hypothesis import given
from hypothesis import strategies as st

LIMITS = BatchLimits(preferred_tokens=100, max_rows=8)
COST = CostModel(attention_cell_cost=1e-3, overhead_tokens=8)
LENGTHS = st.lists(st.integers(1, 150), min_size=1, max_size=60)


def choose(lengths, limits=LIMITS, cost=COST):
    return choose_rows(np.array(lengths, np.int64), limits, cost).tolist()


@given(LENGTHS)
def test_the_oldest_row_is_always_chosen_and_limits_hold(lengths):
    chosen = choose(lengths)
    assert 0 in chosen
    assert len(set(chosen)) == len(chosen) <= LIMITS.max_rows
    total = sum(lengths[index] for index in chosen)
    assert total <= LIMITS.preferred_tokens or chosen == [0]


@given(LENGTHS)
def test_equal_lengths_are_chosen_in_order_of_arrival(lengths):
    chosen = set(choose(lengths))
    for index in chosen:
        older = [i for i in range(index) if lengths[i] == lengths[index]]
        assert chosen.issuperset(older)


@given(st.lists(st.integers(1, 60), min_size=1, max_size=12))
def test_no_run_around_the_oldest_is_cheaper(lengths):
    """Brute force over all runs in order of length."""
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])

    def cost_per_token(rows):
        tokens = sum(lengths[i] for i in rows)
        cells = len(rows) * max(lengths[i] for i in rows) ** 2
        return (COST.overhead_tokens + COST.attention_cell_cost * cells) / tokens

    runs = [
        order[first : last + 1] for first in range(len(order)) for last in range(first, len(order))
    ]
    best = min(
        cost_per_token(run)
        for run in runs
        if 0 in run
        and len(run) <= LIMITS.max_rows
        and (sum(lengths[i] for i in run) <= LIMITS.preferred_tokens)
    )
    assert cost_per_token(choose(lengths)) == pytest.approx(best)


PADDED = CostModel(attention_cell_cost=1e-3, overhead_tokens=8, padded=True)


@given(LENGTHS)
def test_a_padded_batch_keeps_its_limit_with_its_padding(lengths):
    chosen = choose(lengths, cost=PADDED)
    assert 0 in chosen
    longest = max(lengths[index] for index in chosen)
    assert len(chosen) * longest <= LIMITS.preferred_tokens or chosen == [0]


def test_padding_is_a_cost():
    lengths = [10, 30, 10, 10]
    free = CostModel(attention_cell_cost=0, overhead_tokens=8)
    assert sorted(choose(lengths, cost=free)) == [0, 1, 2, 3]
    padded = CostModel(attention_cell_cost=0, overhead_tokens=8, padded=True)
    assert sorted(choose(lengths, cost=padded)) == [0, 2, 3]


def test_short_rows_do_not_join_a_long_one_when_attention_is_dear():
    lengths = [90, 2, 2, 2]
    dear = CostModel(attention_cell_cost=1e-1, overhead_tokens=8)
    cheap = CostModel(attention_cell_cost=1e-6, overhead_tokens=8)
    assert choose(lengths, cost=dear) == [0]
    assert sorted(choose(lengths, cost=cheap)) == [0, 1, 2, 3]


def test_similar_lengths_are_preferred_to_older_dissimilar_ones():
    lengths = [20, 80, 21, 79, 19, 20]
    chosen = choose(lengths, cost=CostModel(attention_cell_cost=1e-2, overhead_tokens=8))
    assert sorted(chosen) == [0, 2, 4, 5]


def test_a_row_beyond_the_preferred_tokens_goes_alone():
    assert choose([150, 10, 10]) == [0]


def choose_sharing(lengths, shared, limits=LIMITS, cost=COST):
    arrays = np.array(lengths, np.int64), np.array(shared, np.int64)
    return choose_rows(arrays[0], limits, cost, arrays[1]).tolist()


def test_rows_that_begin_as_the_oldest_make_a_fuller_batch():
    lengths = [25] * 12
    limits = BatchLimits(preferred_tokens=100, max_rows=99)
    assert len(choose(lengths, limits)) == 4
    assert len(choose_sharing(lengths, [0] + [10] * 11, limits)) == 6  # 25 + 5 * 15 tokens


def test_tokens_that_are_shared_are_bounded_too():
    """Attention takes memory for the tokens of every row."""
    limits = BatchLimits(preferred_tokens=100, max_rows=99)
    assert len(choose_sharing([25] * 20, [0] + [25] * 19, limits)) == 8  # 200 tokens


@given(LENGTHS, st.data())
def test_limits_hold_for_rows_that_share(lengths, data):
    shared = [0, *(data.draw(st.integers(0, min(lengths[0], n))) for n in lengths[1:])]
    chosen = choose_sharing(lengths, shared)
    assert 0 in chosen
    assert len(set(chosen)) == len(chosen) <= LIMITS.max_rows
    computed = sum(lengths[index] - shared[index] for index in chosen)
    assert computed <= LIMITS.preferred_tokens or chosen == [0]
    assert sum(lengths[index] for index in chosen) <= 2 * LIMITS.preferred_tokens or chosen == [0]


@pytest.mark.parametrize(("shared", "rows"), [(25, 40), (20, 40), (0, 20)])
def test_a_batch_is_filled_whatever_waits(shared, rows):
    """Not by the way in which its end is looked for: 4,000 texts of 25 tokens, 512 preferred."""
    limits = BatchLimits(preferred_tokens=512, max_rows=256)
    assert len(choose_sharing([25] * 4000, [0] + [shared] * 3999, limits)) == rows


def test_rows_of_the_oldest_ones_prompt_are_cheaper_than_others_of_its_length():
    """So a batch reaches to where they are."""
    lengths, shared = [30, 31, 32, 33, 29, 28], [0, 0, 0, 0, 20, 20]
    assert set(choose_sharing(lengths, shared)) >= {0, 4, 5}

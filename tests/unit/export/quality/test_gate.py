"""The gate: what passes, what is refused, and what a user may accept."""

import dataclasses

import numpy as np
import pytest

from lasttoken_export.errors import InvalidOption
from lasttoken_export.precisions import PRECISIONS
from lasttoken_export.quality.batch_invariance import BatchInvariance, check_batch_invariance
from lasttoken_export.quality.gate import check_accepted, check_gate, parse_accepted
from lasttoken_export.quality.quality_report import QualityFigures

FINE = QualityFigures(
    mean_cosine=0.9995, p1_cosine=0.9993, minimum_cosine=0.9992, top10_overlap=0.98,
    ndcg_at_10=0.5, ndcg_at_10_reference=0.5, ndcg_change=0.0, ndcg_change_error=0.002,
    not_finite=0,
)  # fmt: skip
SAME = BatchInvariance(
    bitwise_batch_invariant=True, rows=4, packings=3, largest_batch_difference=0.0
)


def missed(precision, accepted=None, invariance=SAME, chance=0.0, **changes):
    figures = dataclasses.replace(FINE, **changes)
    gate = PRECISIONS[precision].gate
    return check_gate(figures, invariance, gate, accepted or {}, ndcg_standard_errors=chance).missed


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8", "int8-weights", "fp8", "int4"])
def test_good_figures_pass_every_gate(precision):
    assert missed(precision) == []


@pytest.mark.parametrize(
    ("precision", "changes", "figure"),
    [
        ("fp16", {"minimum_cosine": 0.9989}, "minimum_cosine is 0.99890, at least 0.999 is asked"),
        ("bf16", {"minimum_cosine": 0.9989}, "minimum_cosine"),
        ("int8", {"mean_cosine": 0.9899}, "mean_cosine"),
        ("fp8", {"mean_cosine": 0.9899}, "mean_cosine"),
        ("int8", {"ndcg_change": -0.0101}, "ndcg_loss"),
        ("int4", {"mean_cosine": 0.9799}, "mean_cosine"),
        ("int4", {"ndcg_change": -0.0201}, "ndcg_loss"),
        ("int4", {"mean_cosine": float("nan")}, "mean_cosine"),
        ("int4", {"not_finite": 2}, "2 vectors hold NaN or infinity"),
    ],
)
def test_each_figure_is_held_to_its_bound(precision, changes, figure):
    [message] = missed(precision, **changes)
    assert message.startswith(figure)


def test_what_is_only_just_good_enough_passes():
    assert missed("int8", mean_cosine=0.9901, ndcg_change=-0.0099, minimum_cosine=0.9) == []
    assert missed("int4", mean_cosine=0.9801, ndcg_change=-0.0199) == []


def test_chance_is_put_aside_only_where_it_is_asked():
    figures = {"ndcg_change": -0.013, "ndcg_change_error": 0.002}
    assert missed("int8", **figures)
    assert missed("int8", chance=1.645, **figures) == []
    assert missed("int8", chance=1.645, ndcg_change=-0.02, ndcg_change_error=0.002)


def test_a_user_accepts_a_figure_by_its_name():
    bad = {"mean_cosine": 0.97, "ndcg_change": -0.05}
    assert len(missed("int8", **bad)) == 2
    [message] = missed("int8", {"mean_cosine": None}, **bad)
    assert message.startswith("ndcg_loss")
    assert missed("int8", {"mean_cosine": 0.965, "ndcg_loss": 0.06}, **bad) == []
    assert missed("int8", {"mean_cosine": 0.975, "ndcg_loss": None}, **bad) != []
    assert missed("int8", {"mean_cosine": None, "ndcg_loss": None}, not_finite=1, **bad) != []


def test_vectors_that_change_with_their_batch_are_refused():
    differs = dataclasses.replace(
        SAME, bitwise_batch_invariant=False, largest_batch_difference=1e-6
    )
    [message] = missed("int8", invariance=differs)
    assert message.startswith("batch_invariance")
    assert missed("int8", {"batch_invariance": None}, invariance=differs) == []
    assert missed("int8", invariance=None) == []


@pytest.mark.parametrize(("bound", "passes"), [(1e-6, True), (9e-7, False), (0.0, False)])
def test_a_batch_may_change_vectors_up_to_what_is_accepted(bound, passes):
    differs = dataclasses.replace(
        SAME, bitwise_batch_invariant=False, largest_batch_difference=1e-6
    )
    found = missed("int8", {"batch_invariance": bound}, invariance=differs)
    assert (found == []) is passes
    if not passes:
        assert found == [
            "batch_invariance: vectors change with their batch, by up to 1e-06, at most "
            f"{bound:g} is asked"
        ]
    not_finite = dataclasses.replace(differs, largest_batch_difference=None)
    for accepted in (bound, None):
        assert missed("int8", {"batch_invariance": accepted}, invariance=not_finite)


def test_what_a_precision_does_not_bound_cannot_be_accepted():
    assert missed("fp16", {"mean_cosine": 0.9999, "ndcg_loss": -1.0}, mean_cosine=0.5) == []
    with pytest.raises(InvalidOption, match="ndcg_loss: the gate of fp16 does not ask for it, but"):
        check_accepted({"ndcg_loss": 0.1}, "fp16")
    check_accepted({"mean_cosine": None, "ndcg_loss": 0.1, "batch_invariance": None}, "int4")


def test_accepted_figures_are_read():
    assert parse_accepted(["mean_cosine=0.97", "ndcg_loss"]) == {
        "mean_cosine": 0.97,
        "ndcg_loss": None,
    }
    with pytest.raises(InvalidOption, match="names 'cosine'; the figures with a gate are"):
        parse_accepted(["cosine=0.9"])
    with pytest.raises(InvalidOption, match="'low' is no number"):
        parse_accepted(["mean_cosine=low"])
    for value in ("inf", "-Infinity", "nan", "1e999"):
        with pytest.raises(InvalidOption, match=f"'{value}' is no number"):
            parse_accepted([f"mean_cosine={value}"])


class Leaky:
    """An engine whose vectors hold a trace of the whole batch: one scale over all of it."""

    def __init__(self, leak):
        self.leak = leak

    def encode(self, input_ids, row_lengths):
        rows = np.split(input_ids, np.cumsum(row_lengths)[:-1])
        own = np.array([[row.mean(), len(row)] for row in rows], np.float32)
        return own * np.float32(1 + self.leak * input_ids.max())


def test_batch_invariance_is_measured():
    random = np.random.default_rng(0)
    rows = [random.integers(0, 99, n, dtype=np.int32) for n in (3, 200, 50, 7, 400, 90, 120, 64)]
    assert check_batch_invariance(Leaky(0.0), rows, sample=6) == BatchInvariance(
        bitwise_batch_invariant=True, rows=6, packings=3, largest_batch_difference=0.0
    )
    found = check_batch_invariance(Leaky(1e-6), rows, sample=6)
    assert not found.bitwise_batch_invariant
    assert 0 < found.largest_batch_difference < 0.1
    found = check_batch_invariance(Leaky(float("nan")), rows, sample=99)
    assert found.rows == len(rows)
    assert found.largest_batch_difference is None

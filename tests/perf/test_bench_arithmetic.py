"""The benchmark's arithmetic and its refusals; never a speed."""

import numpy as np
import pytest

from lasttoken_perf import bench, results
from lasttoken_perf.corpus import long_tailed_texts
from lasttoken_perf.errors import WrongAnswer
from lasttoken_perf.peers.bare_engine import sorted_batches
from lasttoken_perf.peers.process import PeerRun


def unit_vectors(texts, dimensions=8, seed=0):
    vectors = np.random.default_rng(seed).normal(size=(texts, dimensions)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_perfect_batches_hold_every_row_once_in_order_of_length():
    lengths = [7, 3, 100, 3, 12, 60, 5, 40]
    batches = sorted_batches(lengths, 64)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    flat = [lengths[index] for batch in batches for index in batch]
    assert flat == sorted(lengths)
    assert all(sum(lengths[i] for i in batch) <= 64 for batch in batches if len(batch) > 1)
    assert batches[-1] == [2]  # longer than a batch: alone


def test_a_speed_ratio_is_taken_repeat_by_repeat():
    seconds = {
        bench.BARE: [1.0, 2.0, 4.0],
        bench.SERVED: [2.0, 2.0, 2.0],
        bench.SERVED_LIST: [1.0, 1.0, 1.0],
    }
    ratios = bench._ratios(seconds)
    assert ratios[f"{bench.SERVED} / {bench.BARE}"] == {"min": 0.5, "median": 1.0, "max": 2.0}
    assert ratios[f"{bench.SERVED_LIST} / {bench.BARE}"]["median"] == 2.0
    assert not any(bench.SENTENCE_TRANSFORMERS in name for name in ratios)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda v: v[:-1], "shape"),
        (lambda v: v[:, :-1], "shape"),
        (lambda v: v * 1.01, "norm"),
        (lambda v: np.where(np.arange(len(v))[:, None] == 1, np.nan, v), "norm"),
    ],
    ids=["a vector too few", "a dimension too few", "not normalised", "not a number"],
)
def test_what_is_not_one_unit_vector_a_text_is_no_result(spoil, message):
    vectors = unit_vectors(5)
    bench.check_vectors(vectors, 5, 8)
    with pytest.raises(WrongAnswer, match=message):
        bench.check_vectors(spoil(vectors), 5, 8)


def test_a_contestant_with_other_vectors_is_not_timed():
    right = unit_vectors(6)
    swapped = right[[1, 0, 2, 3, 4, 5]]
    near = right + np.float32(1e-6)
    contestants = {
        bench.BARE: lambda: PeerRun(seconds=1, vectors=right),
        "near": lambda: PeerRun(seconds=1, vectors=near),
    }
    agreement = bench._agreement(contestants, lambda message: None)
    assert agreement["near"]["largest_difference"] == pytest.approx(1e-6, rel=0.1)
    contestants["swapped"] = lambda: PeerRun(seconds=1, vectors=swapped)
    with pytest.raises(WrongAnswer, match="swapped does not agree"):
        bench._agreement(contestants, lambda message: None)
    contestants["swapped"] = lambda: PeerRun(seconds=1, vectors=right[:3])
    with pytest.raises(WrongAnswer, match=r"swapped gave \(3, 8\)"):
        bench._agreement(contestants, lambda message: None)


def test_the_table_shows_every_contestant_and_ratio():
    seconds = {bench.BARE: [1.0], bench.SERVED: [1.25], bench.SERVED_LIST: [1.0]}
    result = {
        "tokens_per_s": {name: results.spread([1000 / s for s in all_s])
                         for name, all_s in seconds.items()},
        "ratios": bench._ratios(seconds),
    }  # fmt: skip
    lines = list(bench.table(result))
    assert f"| {bench.SERVED} | 800 | 800 | 800 |" in lines
    assert f"| {bench.SERVED} / {bench.BARE} | 0.80 | 0.80 | 0.80 |" in lines


def test_the_corpus_is_long_tailed_and_the_same_for_a_seed():
    texts = long_tailed_texts(400, seed=3)
    assert texts == long_tailed_texts(400, seed=3)
    assert texts != long_tailed_texts(400, seed=4)
    words = np.array([len(text.split()) for text in texts])
    assert words.min() >= 2
    assert words.max() <= 580
    assert 25 < np.median(words) < 50
    assert words.mean() > 1.4 * np.median(words)
    assert len(set(texts)) > 390

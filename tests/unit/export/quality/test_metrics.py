"""The arithmetic of the quality figures, against other implementations and by hand."""

import numpy as np
import pytest

from lasttoken_export.quality.metrics import best, cosines, finite_rows, ndcg, top_overlap
from lasttoken_export.quality.quality_report import quality_figures


def test_ndcg_is_that_of_scikit_learn():
    ndcg_score = pytest.importorskip("sklearn.metrics").ndcg_score
    random = np.random.default_rng(0)
    for queries, documents, k in ((7, 40, 10), (3, 5, 10), (4, 30, 3)):
        scores = random.normal(size=(queries, documents))
        gains = random.integers(0, 4, (queries, documents)) * (
            random.random((queries, documents)) < 0.3
        )
        gains[:, 0] = 1  # scikit-learn leaves queries without a relevant document out of the mean
        ours = ndcg(scores, gains, k=k)
        theirs = [ndcg_score(gains[i : i + 1], scores[i : i + 1], k=k) for i in range(queries)]
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)


def test_ndcg_of_one_relevant_document_is_the_discount_of_its_rank():
    scores = np.array([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [3.0, 2.0, 1.0]])
    gains = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]])
    np.testing.assert_allclose(ndcg(scores, gains, k=2), [1, 1 / np.log2(3), 0, 0])


def test_of_equal_documents_the_first_comes_first():
    assert best(np.array([[1.0, 2.0, 2.0, 0.0]]), 3).tolist() == [[1, 2, 0]]


def test_overlap_counts_what_both_found():
    one = np.array([[4.0, 3, 2, 1], [4, 3, 2, 1]])
    other = np.array([[4.0, 1, 3, 2], [1, 2, 3, 4]])
    assert top_overlap(one, other, k=2) == (0.5 + 0.0) / 2
    assert top_overlap(one, other, k=10) == 1.0


def test_cosines_ignore_length_and_survive_zeros():
    one = np.array([[3, 4], [1, 0], [0, 0]], np.float32)
    other = np.array([[6, 8], [0, 5], [1, 0]], np.float32)
    np.testing.assert_allclose(cosines(one, other), [1, 0, 0], atol=1e-12)


def test_a_vector_with_one_nan_or_infinity_is_not_finite():
    vectors = np.array([[1, 2], [np.nan, 1], [1, -np.inf]], np.float32)
    assert finite_rows(vectors).tolist() == [True, False, False]


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_figures_of_the_reference_itself_are_perfect():
    vectors = unit(np.random.default_rng(0).normal(size=(40, 8)))
    figures = quality_figures(vectors, vectors, queries=20)
    assert figures.minimum_cosine == pytest.approx(1, abs=1e-7)
    assert figures.top10_overlap == 1
    assert figures.ndcg_change == figures.ndcg_change_error == figures.not_finite == 0


def test_figures_show_what_noise_costs():
    random = np.random.default_rng(0)
    documents = random.normal(size=(60, 16))
    reference = unit(np.concatenate([documents + 0.4 * random.normal(size=(60, 16)), documents]))
    candidate = unit(reference + 0.15 * random.normal(size=reference.shape))
    candidate[3] = np.nan
    figures = quality_figures(candidate, reference, queries=60)
    assert figures.not_finite == 1
    assert figures.minimum_cosine == 0  # the vector that is none
    assert figures.minimum_cosine < figures.p1_cosine < figures.mean_cosine < 0.95
    assert 0.2 < figures.top10_overlap < 0.9
    assert figures.ndcg_change == pytest.approx(
        figures.ndcg_at_10 / figures.ndcg_at_10_reference - 1
    )
    assert figures.ndcg_change < -0.02
    assert 0 < figures.ndcg_change_error < 0.1

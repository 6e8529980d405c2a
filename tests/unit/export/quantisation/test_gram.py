"""The Gram matrix is gathered by halves, in strips, and worked on in its own place."""

import numpy as np
import pytest

from lasttoken_export.quantisation import gram as gram_module
from lasttoken_export.quantisation.gptq import _inverse_root
from lasttoken_export.quantisation.gram import Gram, reorder, subtract_common
from lasttoken_export.quantisation.input_changes import InputChange

RANDOM = np.random.default_rng(3)
SIZE = 96


@pytest.fixture(autouse=True)
def small_strips(monkeypatch):
    monkeypatch.setattr(gram_module, "_STRIP", 64)  # one whole, one of the rest


@pytest.fixture
def inputs():
    return RANDOM.normal(size=(300, SIZE)).astype(np.float32)


def gathered(inputs):
    gram = Gram(SIZE)
    for batch in np.array_split(inputs, 7):
        gram.add(batch)
    return gram


def test_it_is_the_sum_of_outer_products(inputs):
    gram = gathered(inputs)
    assert sum(strip.size for strip in gram._strips) < 0.84 * SIZE**2
    matrix = gram.take()
    assert matrix.dtype == np.float64
    np.testing.assert_allclose(matrix, inputs.T @ inputs, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(matrix, matrix.T, rtol=1e-4, atol=1e-3)
    assert not gram._strips, "it would be there twice"


@pytest.mark.parametrize("rotation", [None, 32])
def test_what_is_done_to_inputs_is_done_to_it_in_place(inputs, rotation):
    factors = RANDOM.uniform(0.5, 2, SIZE).astype(np.float32)
    change = InputChange(factors=factors, rotation=rotation)
    matrix = gathered(inputs).take()
    change.apply_to_gram(matrix)
    changed = change.applied(inputs)
    np.testing.assert_allclose(matrix, changed.T @ changed, rtol=1e-4, atol=1e-3)
    mean = changed.mean(axis=0)
    subtract_common(matrix, mean, len(inputs))
    centred = changed - mean
    np.testing.assert_allclose(matrix, centred.T @ centred, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("order", [np.arange(SIZE), np.arange(SIZE)[::-1], None])
def test_an_order_is_that_of_rows_and_columns(order):
    order = RANDOM.permutation(SIZE) if order is None else order
    matrix = RANDOM.normal(size=(SIZE, SIZE))
    expected = matrix[np.ix_(order, order)]
    reorder(matrix, order)
    np.testing.assert_array_equal(matrix, expected)


def test_its_inverse_takes_its_place(inputs):
    matrix = inputs.T.astype(np.float64) @ inputs
    order = RANDOM.permutation(SIZE)
    damped = matrix[np.ix_(order, order)]
    damped[np.diag_indices(SIZE)] += 0.01 * np.diag(damped).mean()
    root = _inverse_root(matrix, order)
    assert np.shares_memory(root, matrix)
    np.testing.assert_allclose(np.triu(root).T @ np.triu(root), np.linalg.inv(damped), rtol=1e-6)

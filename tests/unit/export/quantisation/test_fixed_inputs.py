"""One int8 scale for all tokens: the zero point or offset, and when it is taken."""

from __future__ import annotations

import numpy as np

from lasttoken_export.quantisation.fixed_inputs import FixedInputs, find_fixed_inputs

RANDOM = np.random.default_rng(5)
WEIGHT = RANDOM.normal(size=(64, 40)).astype(np.float32)


def error(fixed, inputs):
    offset = 0 if fixed.offset is None else fixed.offset
    off = np.square((fixed.rounded(inputs) + offset - inputs) @ WEIGHT).sum(1)
    return float((off / np.square(inputs @ WEIGHT).sum(1)).mean())


def find(inputs, most=1.0):
    return find_fixed_inputs(WEIGHT, inputs, inputs.mean(axis=0), most=most)


def test_what_all_tokens_have_in_common_is_taken_away():
    common = RANDOM.choice([-3, 3], 64).astype(np.float32)
    inputs = (common + RANDOM.normal(size=(300, 64))).astype(np.float32)
    fixed = find(inputs)
    np.testing.assert_array_equal(fixed.offset, inputs.mean(axis=0))
    around_zero = FixedInputs(scale=float(np.abs(inputs).max()) / 127, zero_point=128)
    assert error(fixed, inputs) < 0.5 * error(around_zero, inputs)


def test_the_zero_point_does_for_inputs_of_one_sign():
    inputs = RANDOM.uniform(0, 5, (300, 64)).astype(np.float32)
    fixed = find(inputs)
    assert fixed.offset is None
    assert fixed.zero_point == 0
    assert np.abs(fixed.rounded(inputs) - inputs).max() <= fixed.scale * 0.5001


def test_what_is_beyond_the_range_saturates():
    fixed = FixedInputs(scale=0.5, zero_point=100)
    rounded = fixed.rounded(np.float32([[-1e9, -50, 0, 0.3, 77.5, 1e9]]))
    assert rounded.tolist() == [[-50, -50, 0, 0.5, 77.5, 77.5]]


def test_tokens_of_unlike_sizes_keep_a_scale_each():
    inputs = RANDOM.normal(size=(300, 64)) * np.exp(3 * RANDOM.normal(size=(300, 1)))
    inputs = inputs.astype(np.float32)
    taken = find(inputs)
    assert error(taken, inputs) > 0.01
    assert find(inputs, most=0.01) is None


def test_one_scale_is_taken_where_it_does_about_as_well():
    alike = RANDOM.uniform(-1, 1, (300, 64)).astype(np.float32)  # all tokens are of one size
    assert find(alike, most=0) is not None
    assert find(RANDOM.normal(size=(300, 64)).astype(np.float32), most=0) is None


def test_an_error_that_is_asked_for_is_kept():
    inputs = RANDOM.normal(size=(300, 64)).astype(np.float32)
    fixed = find(inputs, most=1e-3)
    assert error(fixed, inputs) < 1.2e-3
    assert find(inputs, most=1e-6) is None

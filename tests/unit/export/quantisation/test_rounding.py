"""Rounding of weights, smoothing, and the texts of a calibration."""

from __future__ import annotations

import numpy as np
import pytest

from lasttoken_export.errors import InvalidOption
from lasttoken_export.quantisation.calibration import pack_int4, unpack_int4
from lasttoken_export.quantisation.gptq import gptq_int4, gptq_int8
from lasttoken_export.quantisation.rotation import (
    hadamard,
    head_block,
    online_block,
    rotate_columns,
    rotate_gram,
    rotate_rows,
)
from lasttoken_export.quantisation.smoothing import find_row_smoothing, find_smoothing, row_error
from lasttoken_export.quantisation.texts import default_texts, read_texts
from lasttoken_export.quantisation.weights import (
    block_size,
    int4_block_scales,
    int8_channel_scales,
    to_fp8,
    to_int8,
)

RANDOM = np.random.default_rng(3)


def test_int4_codes_survive_packing():
    codes = RANDOM.integers(-8, 8, (64, 5), dtype=np.int8)
    assert np.array_equal(unpack_int4(pack_int4(codes)), codes)


@pytest.mark.parametrize(
    ("inputs", "size"), [(576, 32), (96, 32), (4096, 32), (48, 16), (20, None)]
)
def test_the_block_divides_the_inputs(inputs, size):
    assert block_size(inputs) == size


def test_int8_is_off_by_half_a_step_at_most():
    weight = RANDOM.normal(size=(50, 7)).astype(np.float32)
    scales = int8_channel_scales(weight)
    assert (np.abs(to_int8(weight, scales) * scales - weight) <= scales * 0.5001).all()


def test_fp8_saturates_instead_of_becoming_nan():
    assert float(to_fp8(np.float32([1e6]), np.float32([1]))[0]) == 448


def test_gptq_changes_the_output_less_than_rounding_to_nearest():
    mixing = RANDOM.normal(size=(128, 128)) * np.exp(RANDOM.normal(size=128))
    inputs = (RANDOM.normal(size=(600, 128)) @ mixing).astype(np.float32)
    weight = RANDOM.normal(size=(128, 40)).astype(np.float32)
    codes, scales = gptq_int4(weight, inputs.T @ inputs, 64)
    nearest = int4_block_scales(weight, 64).repeat(64, axis=0)
    rounded = np.clip(np.rint(weight / nearest), -8, 7) * nearest

    def error(quantised):
        return np.square(inputs @ (quantised - weight)).sum()

    assert error(codes * scales.repeat(64, axis=0)) < 0.5 * error(rounded)
    assert codes.min() >= -8
    assert codes.max() <= 7


def test_gptq_in_int8_changes_the_output_less_than_rounding_to_nearest():
    mixing = RANDOM.normal(size=(128, 128)) * np.exp(RANDOM.normal(size=128))
    inputs = (RANDOM.normal(size=(600, 128)) @ mixing).astype(np.float32)
    weight = RANDOM.normal(size=(128, 40)).astype(np.float32)
    codes, scales = gptq_int8(weight, inputs.T @ inputs)
    assert scales.shape == (40,)
    assert np.array_equal(scales, int8_channel_scales(weight))

    def error(quantised):
        return np.square(inputs @ (quantised * scales - weight)).sum()

    assert error(codes) < 0.5 * error(to_int8(weight, scales))
    assert np.abs(codes).max() <= 127


def test_smoothing_for_a_scale_a_row_leaves_less_error_than_that_for_one_scale():
    inputs = RANDOM.normal(size=(300, 64)).astype(np.float32)
    inputs[7] *= 500  # a massive token, which one scale for all must cover
    inputs[:, 5] *= 80
    weight = RANDOM.normal(size=(64, 32)).astype(np.float32)
    weight[5] /= 80  # a large channel of small weight is what smoothing evens out
    largest = np.abs(inputs).max(axis=0)

    def error(factors):
        return row_error(weight * factors[:, None], inputs / factors)

    found = find_row_smoothing(weight, inputs, largest, None)
    by_row = error(found.factors)
    assert by_row == pytest.approx(found.error)
    assert by_row < error(find_smoothing(weight, inputs, largest, None).factors)
    assert by_row < 0.5 * error(np.ones(64, np.float32))


@pytest.mark.parametrize("size", [1, 2, 8, 64])
def test_a_hadamard_matrix_is_orthogonal_and_symmetric(size):
    matrix = hadamard(size)
    np.testing.assert_allclose(matrix @ matrix, np.eye(size), atol=1e-6)


def test_a_rotation_leaves_the_product_and_spreads_an_outlier():
    inputs = RANDOM.normal(size=(50, 96)).astype(np.float32)
    inputs[:, 40] *= 100
    weight = RANDOM.normal(size=(96, 24)).astype(np.float32)
    weight[40] /= 100
    turned, rows = rotate_columns(inputs, 32), rotate_rows(weight, 32)
    np.testing.assert_allclose(turned @ rows, inputs @ weight, atol=1e-3)
    gram = (inputs.T @ inputs).astype(np.float64)
    rotate_gram(gram, 32)
    np.testing.assert_allclose(gram, turned.T @ turned, rtol=1e-3, atol=1e-3)
    assert np.abs(turned).max() < 0.3 * np.abs(inputs).max()
    assert (online_block(1536), online_block(24), online_block(12)) == (32, 8, None)
    assert (head_block(64), head_block(96), head_block(12)) == (64, 32, None)


def test_smoothing_takes_an_outlier_channel_out_of_the_activations():
    inputs = RANDOM.normal(size=(200, 64)).astype(np.float32)
    inputs[:, 5] *= 200
    weight = RANDOM.normal(size=(64, 32)).astype(np.float32)
    largest = np.abs(inputs).max(axis=0)
    found = find_smoothing(weight, inputs, largest, None)
    assert found.factors.argmax() == 5
    scale = largest.max() / 127
    plain = to_int8(inputs, scale) * scale @ weight
    expected = inputs @ weight
    energy = np.square(expected).sum(axis=1)
    plain_error = (np.square(plain - expected).sum(axis=1) / energy).mean()
    assert found.error < 0.2 * plain_error


def test_inputs_of_one_channel_share_a_factor():
    inputs = RANDOM.normal(size=(50, 64)).astype(np.float32) * np.exp(RANDOM.normal(size=64) * 2)
    channels = np.arange(32).reshape(2, 1, 16).repeat(2, axis=1).ravel()
    weight = RANDOM.normal(size=(64, 32)).astype(np.float32)
    inputs = inputs.astype(np.float32)
    found = find_smoothing(weight, inputs, np.abs(inputs).max(axis=0), channels)
    assert (found.factors != 1).any()
    for channel in range(32):
        assert len(set(found.factors[channels == channel])) == 1


def test_the_default_texts_are_varied_and_always_the_same():
    texts = default_texts()
    assert texts == default_texts()
    assert min(map(len, texts)) < 10
    assert max(map(len, texts)) > 1000
    assert any("def " in text for text in texts)
    assert any("请" in text for text in texts)


def test_own_texts_are_read(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\ntwo\n")
    assert read_texts(tmp_path / "a.txt") == ["one", "two"]
    (tmp_path / "b.jsonl").write_text('"one"\n{"text": "two\\nlines"}\n')
    assert read_texts(tmp_path / "b.jsonl") == ["one", "two\nlines"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", " \n", "holds no calibration texts"),
        ("a.jsonl", "{", "is no JSON"),
        ("a.jsonl", "[1]", "neither a string nor an object"),
    ],
)
def test_a_bad_file_of_texts_is_refused(name, content, message, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(InvalidOption, match=message):
        read_texts(tmp_path / name)


def test_a_missing_file_of_texts_is_refused(tmp_path):
    with pytest.raises(InvalidOption, match="cannot be read"):
        read_texts(tmp_path / "none.txt")

"""`dimensions`, `output_dtype` and `ranges` of `embed`."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lasttoken import InvalidInput, quantize
from unit.client.fake_triton import DIMENSIONS, vector_of, vectors_of

TEXTS = [f"text {i}" for i in range(120)]


def test_dimensions_cut_and_normalise(fake, make_client):
    fake.card = json.dumps({"matryoshka": {"dimensions": [8, 4]}})
    with make_client() as client:
        vectors = client.embed(TEXTS, dimensions=4)
        one = client.embed(TEXTS[0], dimensions=4)
        rows = list(client.embed_iter(TEXTS, dimensions=4))
        full = client.embed_full(TEXTS, dimensions=8)
        nothing = client.embed([], dimensions=4)
    cut = vectors_of(TEXTS)[:, :4]
    expected = cut / np.linalg.norm(cut, axis=1, keepdims=True)
    assert np.allclose(vectors, expected, atol=1e-7)
    assert np.array_equal(one, vectors[0])
    assert np.array_equal(np.stack(rows), vectors)
    assert np.array_equal(full.vectors, vectors_of(TEXTS))
    assert nothing.shape == (0, 4)


@pytest.mark.parametrize(
    ("sizes", "dimensions", "words"),
    [
        (None, 4, "was not trained for shorter"),
        ({"minimum": 6}, 4, "was trained for 6 dimensions and more"),
        ({"dimensions": [8, 6, 2]}, 4, "was trained for the sizes 8, 6, 2"),
        ({"minimum": 2}, 9, "have 8"),
        ({"minimum": 2}, 0, "dimensions is 0"),
        ({"minimum": 2}, 2.5, "dimensions is 2.5"),
        ({"minimum": 2}, True, "dimensions is True"),
    ],
)
def test_sizes_that_the_model_was_not_trained_for_are_refused(
    fake, make_client, sizes, dimensions, words
):
    fake.card = json.dumps({"matryoshka": sizes})
    with make_client() as client:
        for call in (client.embed, lambda *a, **k: list(client.embed_iter(*a, **k))):
            with pytest.raises(InvalidInput, match=words):
                call(["a"], dimensions=dimensions)
        assert not fake.calls
        if dimensions == 4:
            forced = client.embed(["a"], dimensions=4, force_dimensions=True)
            assert forced.shape == (1, 4)
            assert np.isclose(np.linalg.norm(forced), 1.0)


def test_a_model_without_a_card_is_not_trained_for_less(make_client):
    with make_client() as client:
        with pytest.raises(InvalidInput, match="force_dimensions"):
            client.embed("a", dimensions=4)
        assert client.embed("a", dimensions=8).shape == (8,)


@pytest.mark.parametrize(
    ("output_dtype", "dtype", "width"),
    [
        ("float32", np.float32, 8),
        ("float16", np.float16, 8),
        ("int8", np.int8, 8),
        ("uint8", np.uint8, 8),
        ("binary", np.int8, 1),
        ("ubinary", np.uint8, 1),
    ],
)
def test_types_of_the_answer(make_client, output_dtype, dtype, width):
    ranges = np.array([[-1.0] * DIMENSIONS, [1.0] * DIMENSIONS])
    given = {"ranges": ranges} if output_dtype.endswith("int8") else {}
    with make_client() as client:
        many = client.embed(TEXTS, output_dtype=output_dtype, **given)
        one = client.embed(TEXTS[3], output_dtype=output_dtype, **given)
        none = client.embed([], output_dtype=output_dtype, **given)
        rows = list(client.embed_iter(TEXTS, output_dtype=output_dtype, **given))
    assert (many.dtype, many.shape) == (dtype, (len(TEXTS), width))
    assert (one.dtype, one.shape) == (dtype, (width,))
    assert (none.dtype, none.shape) == (dtype, (0, width))
    assert np.array_equal(np.stack(rows), many)
    assert np.array_equal(one, many[3])


def test_ranges_come_from_the_call_or_from_the_caller(make_client):
    vectors = vectors_of(TEXTS)
    with make_client(max_texts_per_request=7) as client:
        own = client.embed(TEXTS, output_dtype="uint8")
        given = client.embed(
            TEXTS, output_dtype="uint8", ranges=[[-2.0] * DIMENSIONS, [2.0] * DIMENSIONS]
        )
        with pytest.raises(InvalidInput, match="one vector only"):
            client.embed(TEXTS[:1], output_dtype="uint8")
    assert own.min(axis=0).tolist() == [0] * 8
    assert own.max(axis=0).min() >= 254  # rounding may lose the last step
    assert np.array_equal(given, np.floor((vectors + 2.0) / np.float32(4.0 / 255)).astype("u1"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"output_dtype": "int4"}, "output_dtype is 'int4'"),
        ({"output_dtype": None}, "output_dtype is None"),
        ({"ranges": [[0.0] * 8] * 2}, "ranges are given"),
        ({"output_dtype": "binary", "ranges": [[0.0] * 8] * 2}, "ranges are given"),
        ({"output_dtype": "int8", "ranges": [[0.0] * 8]}, r"shape \(1, 8\)"),
        ({"output_dtype": "int8", "ranges": [[0] * 8] * 2}, "give floats"),
        ({"output_dtype": "int8", "ranges": [[0.0] * 5] * 2}, "for 5 dimensions"),
    ],
)
def test_forms_that_cannot_be_are_refused(make_client, options, words):
    with make_client() as client, pytest.raises(InvalidInput, match=words):
        client.embed(["a", "b"], **options)


def test_few_vectors_for_ranges_are_remarked(caplog):
    quantize(vectors_of(TEXTS[:5]), "int8")
    assert "come from 5 vectors" in caplog.text
    assert quantize(vector_of("a"), "binary").shape == (1,)

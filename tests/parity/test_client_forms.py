"""The client's vector forms against sentence-transformers' own functions."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import cos_sim, pairwise_cos_sim, quantize_embeddings

from lasttoken import EmbeddingClient, quantize, similarity, similarity_pairwise

DRAW = np.random.default_rng(11)


@pytest.mark.parametrize("precision", ["float32", "int8", "uint8", "binary", "ubinary"])
@pytest.mark.parametrize("dimensions", [3, 64, 384, 1000])
def test_every_precision_is_bit_for_bit_theirs(precision, dimensions):
    vectors = DRAW.standard_normal((257, dimensions)).astype(np.float32)
    vectors[:, 0] = 0.25  # a dimension without a range
    vectors[5] = 0.0
    ours, theirs = quantize(vectors, precision), quantize_embeddings(vectors, precision)
    assert ours.dtype == theirs.dtype
    assert np.array_equal(ours, theirs)
    if precision.endswith("int8"):
        ranges = np.stack((vectors[:100].min(axis=0), vectors[:100].max(axis=0)))
        assert np.array_equal(
            quantize(vectors, precision, ranges), quantize_embeddings(vectors, precision, ranges)
        )
        wide = ranges.astype(np.float64)
        assert np.array_equal(
            quantize(vectors[0], precision, wide), quantize_embeddings(vectors[0], precision, wide)
        )
    else:
        assert np.array_equal(
            quantize(vectors[1], precision), quantize_embeddings(vectors[1], precision)
        )
    empty = vectors[:0]
    assert quantize(empty, precision).shape == quantize_embeddings(empty, precision).shape


def test_similarities_are_theirs():
    a, b = (DRAW.standard_normal((n, 48)).astype(np.float32) for n in (9, 14))
    assert np.allclose(similarity(a, b), cos_sim(a, b).numpy(), atol=1e-6)
    assert np.allclose(similarity_pairwise(a, b[:9]), pairwise_cos_sim(a, b[:9]), atol=1e-6)


@pytest.mark.parametrize("name", ["encode", "encode_query", "encode_document"])
def test_arguments_are_theirs_with_their_defaults(name):
    theirs = inspect.signature(getattr(SentenceTransformer, name)).parameters
    ours = inspect.signature(getattr(EmbeddingClient, name)).parameters
    for parameter in theirs.values():
        if parameter.kind is parameter.VAR_KEYWORD or parameter.name == "inputs":
            continue
        assert ours[parameter.name].default == parameter.default, parameter.name
        assert ours[parameter.name].kind is parameter.kind
    positional = [p.name for p in theirs.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert list(ours)[: len(positional)] == positional

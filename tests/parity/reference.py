"""transformers' own models, one text at a time: what everything is compared with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch  # noqa: TID251 - the reference


def last_token_vectors(model, rows):
    """Return ``[n, D]`` float32: the last hidden state of each row's last token, normalised."""
    vectors = []
    with torch.inference_mode():
        for row in rows:
            ids = torch.from_numpy(np.asarray(row, np.int64))[None]
            hidden = model(input_ids=ids).last_hidden_state[0, -1].float()
            vectors.append(torch.nn.functional.normalize(hidden, dim=0).numpy())
    return np.stack(vectors)


@dataclass(frozen=True)
class Figure:
    """What one comparison measured."""

    name: str
    reference: str
    texts: int
    longest: int
    precision: str
    cosine_distance: float
    largest_difference: float


FIGURES = []
"""Of the tests that were run, in their order."""


def assert_agree(
    vectors, reference, *, lowest_cosine, largest_difference=None, name=None, rows=(),
    precision="fp32", made_by="transformers",
):  # fmt: skip
    """Shapes, norms, cosines, then differences; noted under the name, if there is one."""
    assert vectors.shape == reference.shape
    if name is not None:
        ours, theirs = vectors.astype(np.float64), reference.astype(np.float64)
        norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
        distance = 1 - ((ours * theirs).sum(axis=1) / norms).min()
        difference = np.abs(ours - theirs).max()
        figure = (name, made_by, len(vectors), max(map(len, rows)), precision, distance, difference)
        FIGURES.append(Figure(*figure))
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert (vectors * reference).sum(axis=1).min() >= lowest_cosine
    if largest_difference is not None:
        assert np.abs(vectors - reference).max() <= largest_difference


def encode_in_batches(engine, rows, batch_rows, *, seed=0, max_tokens=2048):
    """Embed rows in batches of mixed company, of at most so many rows and tokens."""
    vectors = [None] * len(rows)
    batches, tokens = [[]], 0
    for index in np.random.default_rng(seed).permutation(len(rows)):
        tokens += len(rows[index])
        if batches[-1] and (len(batches[-1]) == batch_rows or tokens > max_tokens):
            batches.append([])
            tokens = len(rows[index])
        batches[-1].append(index)
    for batch in batches:
        lengths = np.array([len(rows[i]) for i in batch], np.int32)
        packed = np.concatenate([np.asarray(rows[i], np.int32) for i in batch])
        for index, vector in zip(batch, engine.encode(packed, lengths), strict=True):
            vectors[index] = vector
    return np.stack(vectors)

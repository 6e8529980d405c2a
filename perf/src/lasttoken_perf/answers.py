"""Checks of what a server returned under load: a fast wrong answer is no result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from lasttoken_perf.errors import WrongAnswer

LOWEST_COSINE = 0.9999
_DIFFERENT = 1e-6
"""Two texts' vectors differ by more than this in some element."""


def check_answers(
    texts: Sequence[str],
    vectors: NDArray[np.float32],
    dimensions: int,
    known: Mapping[str, NDArray[np.float32]],
) -> dict[str, float]:
    """Check shape, norm and the vectors of known texts.

    Args:
        texts: What was sent, one for each vector.
        vectors: ``[n, dim]``, what came back.
        dimensions: Length that a vector must have.
        known: Vectors ``[dim]`` by text, taken beforehand.

    Returns:
        ``vectors`` checked, ``known_vectors`` compared, ``largest_norm_error``,
        ``lowest_cosine`` and ``largest_difference`` to the known vectors.

    Raises:
        WrongAnswer: Something is off, or nothing could be compared.
    """
    if vectors.shape != (len(texts), dimensions) or not len(texts):
        raise WrongAnswer(
            f"got vectors of shape {vectors.shape} for {len(texts)} texts, not "
            f"{(len(texts), dimensions)}"
        )
    norm_error = float(np.abs(np.linalg.norm(vectors, axis=1) - 1).max())
    if not norm_error <= 1e-3:
        raise WrongAnswer(f"a vector's norm is off 1 by {norm_error}")
    places = [index for index, text in enumerate(texts) if text in known]
    if not places:
        raise WrongAnswer("none of the known texts was answered: nothing could be compared")
    if len(known) > 1 and np.ptp(np.stack(list(known.values())), axis=0).max() < _DIFFERENT:
        raise WrongAnswer(f"{len(known)} different texts share a vector")
    got = vectors[places]
    expected = np.stack([known[texts[index]] for index in places])
    cosine = float((got * expected).sum(axis=1).min())
    if not cosine >= LOWEST_COSINE:
        raise WrongAnswer(f"a known text's vector has cosine {cosine} to what it should be")
    return {
        "vectors": len(vectors),
        "known_vectors": len(places),
        "largest_norm_error": norm_error,
        "lowest_cosine": cosine,
        "largest_difference": float(np.abs(got - expected).max()),
    }


def worst(checks: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Put the checks of several points together."""
    if not checks:
        return {}
    return {
        "vectors": sum(check["vectors"] for check in checks),
        "known_vectors": sum(check["known_vectors"] for check in checks),
        "largest_norm_error": max(check["largest_norm_error"] for check in checks),
        "lowest_cosine": min(check["lowest_cosine"] for check in checks),
        "largest_difference": max(check["largest_difference"] for check in checks),
    }

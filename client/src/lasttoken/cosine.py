"""Cosine similarity of vectors, in the shapes of sentence-transformers."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from lasttoken.errors import InvalidInput


def similarity(first: Any, second: Any) -> npt.NDArray[np.float32]:
    """Cosines of each vector of `first` with each of `second`.

    Args:
        first: `[n, D]` or `[D]`: an array, a list of them, or a torch tensor.
        second: `[m, D]` or `[D]`.

    Returns:
        `[n, m]` float32.
    """
    a, b = _unit_rows(first), _unit_rows(second)
    _check_same(a.shape[1], b.shape[1])
    product: npt.NDArray[np.float32] = a @ b.T
    return product


def similarity_pairwise(first: Any, second: Any) -> npt.NDArray[np.float32]:
    """Cosine of each vector of `first` with the one at the same place in `second`.

    Args:
        first: `[n, D]` or `[D]`.
        second: `[n, D]` or `[D]`.

    Returns:
        `[n]` float32.
    """
    a, b = _unit_rows(first), _unit_rows(second)
    _check_same(a.shape, b.shape)
    product: npt.NDArray[np.float32] = np.einsum("nd,nd->n", a, b)
    return product


def _unit_rows(vectors: Any) -> npt.NDArray[np.float32]:
    if hasattr(vectors, "detach"):  # a torch tensor, wherever it lies
        vectors = vectors.detach().cpu().numpy()
    elif isinstance(vectors, (list, tuple)):
        vectors = [v.detach().cpu().numpy() if hasattr(v, "detach") else v for v in vectors]
    rows = np.atleast_2d(np.asarray(vectors, dtype=np.float32))
    if rows.ndim != 2:
        raise InvalidInput(f"vectors are of shape {rows.shape}; give [n, D] or [D]")
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: npt.NDArray[np.float32] = rows / np.maximum(norms, np.float32(1e-12))
    return unit


def _check_same(first: object, second: object) -> None:
    if first != second:
        raise InvalidInput(f"vectors of {first} and of {second} cannot be compared")

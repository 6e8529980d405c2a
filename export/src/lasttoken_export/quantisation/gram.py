"""The Gram matrix of a linear layer's inputs, which GPTQ rounds by.

A model of 7 billion parameters has linear layers of 14,336 inputs, so nothing here makes a second
matrix of that size.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from lasttoken_export.quantisation.weights import Floats

FloatMatrix = NDArray[np.float64]
_STRIP = 1024
"""A multiple of the blocks in which inputs are rotated."""


class Gram:
    """Gathers the sum over tokens of the inputs' outer products, a triangle of it, in strips.

    Args:
        size: Inputs of the layer.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._strips: list[Floats] = [
            np.zeros((size - start, min(_STRIP, size - start)), np.float32)
            for start in range(0, size, _STRIP)
        ]

    def add(self, values: Floats) -> None:
        """Take the inputs of a batch: ``[tokens, in]``."""
        for number, strip in enumerate(self._strips):
            start = number * _STRIP
            strip += values[:, start:].T @ values[:, start : start + strip.shape[1]]

    def take(self) -> FloatMatrix:
        """Return the whole of it, ``[in, in]`` float64; once, as strips go when they are copied."""
        matrix = np.empty((self._size, self._size), np.float64)
        while self._strips:
            strip = self._strips.pop()
            start, stop = self._size - len(strip), self._size - len(strip) + strip.shape[1]
            matrix[start:stop, start:] = strip.T
            matrix[start:, start:stop] = strip
        return matrix


def strips_of(matrix: FloatMatrix) -> Iterator[tuple[slice, FloatMatrix]]:
    """Yield the rows of ``[n, n]``, some at a time, and which they are: views, to be changed."""
    for start in range(0, len(matrix), _STRIP):
        rows = slice(start, min(start + _STRIP, len(matrix)))
        yield rows, matrix[rows]


def subtract_common(matrix: FloatMatrix, mean: Floats, weight: float) -> None:
    """Take away, in place, what inputs have in common.

    Args:
        matrix: ``[in, in]`` sum over tokens of the inputs' outer products.
        mean: ``[in]`` mean of the inputs.
        weight: Of all tokens together.
    """
    for rows, strip in strips_of(matrix):
        strip -= np.outer(weight * mean[rows], mean)


def reorder(matrix: FloatMatrix, order: NDArray[np.int64]) -> None:
    """Put rows and columns into an order, in place.

    Args:
        matrix: ``[n, n]``, rows contiguous.
        order: ``[n]`` where each new row and column was.
    """
    for row in matrix:
        row[:] = row[order]
    moved = np.zeros(len(matrix), np.bool_)
    for first in range(len(matrix)):  # one cycle of the permutation after the other
        if moved[first]:
            continue
        kept, place = matrix[first].copy(), first
        while order[place] != first:
            matrix[place] = matrix[order[place]]
            moved[place] = True
            place = int(order[place])
        matrix[place] = kept
        moved[place] = True

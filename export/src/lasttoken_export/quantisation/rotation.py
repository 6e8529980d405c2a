"""Rotation: an orthogonal matrix spreads an outlier of a linear layer's inputs over its block.

Inputs are rotated in blocks by a Hadamard matrix and the weights' rows with them, so the product
stays what it was, while the largest input of a token, which decides its scale, comes near to the
others. Where the inputs are heads' values, mixed by attention, the layer that makes the values
takes the rotation, at no cost; elsewhere it is a small product.

Source: QuaRot, https://arxiv.org/abs/2404.00456, sections 3 and 4.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np

from lasttoken_export.quantisation.gram import FloatMatrix, strips_of
from lasttoken_export.quantisation.weights import Floats

Matrix = TypeVar("Matrix", Floats, FloatMatrix)

_LARGEST_BLOCK, _SMALLEST_BLOCK = 32, 8


def online_block(in_features: int) -> int | None:
    """Return the block for inputs that nothing upstream can rotate, or None if none divides."""
    block = _LARGEST_BLOCK
    while block >= _SMALLEST_BLOCK:
        if in_features % block == 0:
            return block
        block //= 2
    return None


def head_block(head_dim: int) -> int | None:
    """Return the block for inputs that are heads' values: the largest that divides a head."""
    block = head_dim & -head_dim  # its largest power of two
    return block if block >= _SMALLEST_BLOCK else None


def hadamard(size: int) -> Floats:
    """Return the orthogonal Hadamard matrix ``[size, size]`` of a power of two, which is symmetric.

    Source: Sylvester's construction.
    """
    assert size > 0, size
    assert size & (size - 1) == 0, size
    matrix = np.ones((1, 1), np.float32)
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    orthogonal: Floats = (matrix / np.sqrt(np.float32(size))).astype(np.float32)
    return orthogonal


def rotate_columns(values: Matrix, block: int) -> Matrix:
    """Rotate each row of ``[n, size]`` in blocks."""
    rotated: Matrix = (values.reshape(-1, block) @ hadamard(block)).reshape(values.shape)
    return rotated


def rotate_rows(weight: Matrix, block: int) -> Matrix:
    """Rotate the rows of ``[in, out]`` as `rotate_columns` rotates what they are multiplied by."""
    blocks = weight.reshape(-1, block, weight.shape[1])
    rotated: Matrix = np.einsum("ij,bjo->bio", hadamard(block), blocks, optimize=True)
    return rotated.reshape(weight.shape)


def rotate_gram(gram: FloatMatrix, block: int) -> None:
    """Make of the inputs' Gram matrix ``[in, in]``, in place, that of the rotated inputs."""
    for _, strip in strips_of(gram):
        strip[:] = rotate_columns(rotate_rows(strip, block), block)

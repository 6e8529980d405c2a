"""A digest of a checkpoint's weights that costs little: of all tensors, a sample of each."""

from __future__ import annotations

import hashlib
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from lasttoken_export.checkpoint.base import Checkpoint

SAMPLE_ROWS = 32
"""Most rows of a tensor that are looked at: training changes all of a matrix, or most of it."""


@runtime_checkable
class Sampled(Protocol):
    """A checkpoint that can read a part of a tensor."""

    def read_rows(self, name: str, rows: NDArray[np.int64]) -> bytes:
        """Return the bytes of some rows of a tensor, the same for the same weights."""
        ...


def weights_digest(checkpoint: Checkpoint) -> str | None:
    """Digest names, shapes and some rows of all tensors, however they are spread over files.

    Args:
        checkpoint: The weights.

    Returns:
        SHA-256 in hexadecimal; None where the checkpoint is not one of files.
    """
    if not isinstance(checkpoint, Sampled):
        return None
    digest = hashlib.sha256()
    for name in sorted(checkpoint.names()):
        shape = checkpoint.shape(name)
        count = shape[0] if len(shape) > 1 else 1  # one-dimensional: as a whole
        rows = np.unique(np.linspace(0, count - 1, min(SAMPLE_ROWS, count)).astype(np.int64))
        digest.update(f"{name} {shape}\0".encode())
        digest.update(checkpoint.read_rows(name, rows))
    return digest.hexdigest()

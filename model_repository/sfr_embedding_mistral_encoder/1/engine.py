"""The seam between the scheduler and a runtime."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from computed_work import ComputedWork
from numpy.typing import NDArray


class Engine(Protocol):
    """Runs the graph of one model. Called from one thread at a time."""

    def encode(
        self, input_ids: NDArray[np.int32], row_lengths: NDArray[np.int32]
    ) -> NDArray[np.float32]:
        """Embed the rows of one batch.

        Args:
            input_ids: ``[T]`` tokens of all rows back to back, without padding.
            row_lengths: ``[B]`` tokens of each row, each at least 1, summing to T.

        Returns:
            ``[B, D]`` L2-normalised.

        Raises:
            Exception: Whatever the runtime raises; the scheduler answers the rows concerned.
        """
        ...

    def computed_work(self, row_lengths: NDArray[np.int32]) -> ComputedWork:
        """Return what `encode` computes for rows of these lengths, padding included.

        Args:
            row_lengths: ``[B]`` tokens of each row, each at least 1.
        """
        ...

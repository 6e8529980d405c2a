"""What GPTQ needs of a linear layer's inputs: the sum of their outer products.

Each token counts relative to its own output, so the few tokens of massive activations do not decide
for all.
"""

from __future__ import annotations

import numpy as np

from lasttoken_export.quantisation.smoothing import some_outputs
from lasttoken_export.quantisation.weights import Floats


class RelativeGram:
    """Gathers it, batch by batch.

    Args:
        weight: ``[in, out]`` the layer's, in floats.

    Attributes:
        weight: Sum of what the tokens counted.
    """

    def __init__(self, weight: Floats) -> None:
        self._outputs = some_outputs(weight)
        size = len(weight)
        self._matrix = np.zeros((size, size), np.float32)
        self.weight = 0.0
        self._sum = np.zeros(size, np.float64)

    def see(self, values: Floats) -> None:
        """Take the inputs of a batch: ``[tokens, in]``."""
        energy = np.square(values @ self._outputs).mean(axis=1, keepdims=True)
        even = values / np.sqrt(energy + 1e-12)
        self._matrix += even.T @ even
        self._sum += (values / (energy + 1e-12)).sum(axis=0)
        self.weight += float((1 / (energy + 1e-12)).sum())

    def take_matrix(self) -> Floats:
        """Return the sum over tokens of the inputs' outer products by their outputs' energy.

        Once: of 14,336 inputs it is ``[in, in]`` float32 of 0.8 GB, and its taker's alone.
        """
        matrix, self._matrix = self._matrix, np.empty((0, 0), np.float32)
        return matrix

    def mean(self) -> Floats:
        """Return the inputs' mean, weighed in the same way: ``[in]``."""
        mean: Floats = (self._sum / self.weight).astype(np.float32)
        return mean

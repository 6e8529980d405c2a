"""What GPTQ needs of a linear layer's inputs: the sum of their outer products.

Each token counts relative to its own output, so the few tokens of massive activations do not decide
for all.
"""

from __future__ import annotations

import numpy as np

from lasttoken_export.quantisation.gram import FloatMatrix, Gram
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
        self._gram = Gram(len(weight))
        self.weight = 0.0
        self._sum = np.zeros(len(weight), np.float64)

    def see(self, values: Floats) -> None:
        """Take the inputs of a batch: ``[tokens, in]``."""
        energy = np.square(values @ self._outputs).mean(axis=1, keepdims=True)
        self._gram.add(values / np.sqrt(energy + 1e-12))
        self._sum += (values / (energy + 1e-12)).sum(axis=0)
        self.weight += float((1 / (energy + 1e-12)).sum())

    def take_matrix(self) -> FloatMatrix:
        """Return the sum over tokens of the inputs' outer products by their outputs' energy.

        Once: see `Gram.take`.
        """
        return self._gram.take()

    def mean(self) -> Floats:
        """Return the inputs' mean, weighed in the same way: ``[in]``."""
        mean: Floats = (self._sum / self.weight).astype(np.float32)
        return mean

"""Some of a linear layer's inputs, the same tokens for every layer, and how large all are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lasttoken_export.quantisation.weights import Floats


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LayerBatch:
    """What observers know of a batch beside the inputs of their linear layer.

    Attributes:
        states: ``[tokens, hidden]`` hidden states behind the layer of the model.
        first_tokens: ``[rows]`` which of the tokens are the first of their rows.
    """

    states: Floats
    first_tokens: NDArray[np.int64]


class SampledTokens:
    """Gathers them, batch by batch.

    Args:
        size: Elements of an input.
        most: Tokens that are sampled, beside the first ones.
        tokens: Tokens of all calibration texts.
        seed: Decides which are sampled.

    Attributes:
        lowest: ``[size]`` least input of every token and 0.
        highest: ``[size]`` largest input of every token and 0.
    """

    def __init__(self, size: int, most: int, tokens: int, seed: int) -> None:
        self.lowest, self.highest = np.zeros(size, np.float32), np.zeros(size, np.float32)
        chosen = np.random.default_rng(seed).choice(tokens, min(most, tokens), replace=False)
        self._chosen = np.sort(chosen)
        self._seen = 0
        self._rows: list[Floats] = []
        self._states: list[Floats] = []
        self._first_rows: list[Floats] = []
        self._first_states: list[Floats] = []

    def see(self, values: Floats, batch: LayerBatch) -> None:
        """Take the inputs of a batch: ``[tokens, size]``."""
        np.minimum(self.lowest, values.min(axis=0), out=self.lowest)
        np.maximum(self.highest, values.max(axis=0), out=self.highest)
        here = self._chosen[(self._chosen >= self._seen)] - self._seen
        here = here[here < len(values)]
        self._rows.append(values[here])
        self._states.append(_energy(batch.states[here]))
        self._first_rows.append(values[batch.first_tokens])
        self._first_states.append(_energy(batch.states[batch.first_tokens]))
        self._seen += len(values)

    @property
    def largest(self) -> Floats:
        """Largest absolute input of every token: ``[size]``."""
        return np.maximum(-self.lowest, self.highest)

    def inputs(self) -> Floats:
        """Sampled inputs: ``[sampled, size]``."""
        return np.concatenate(self._rows)

    def first_inputs(self) -> Floats:
        """Inputs of each row's first token: ``[rows, size]``."""
        return np.concatenate(self._first_rows)

    def error_of_states(self, off: Callable[[Floats], Floats]) -> float:
        """Mean squared error that is added to hidden states, relative to them.

        Args:
            off: Given inputs ``[n, size]``, what their outputs are off by: ``[n, out]``.

        Returns:
            Of the sampled tokens or of the first ones of all rows, whichever is larger.
        """
        return max(
            float((np.square(off(inputs)).sum(axis=1) / np.concatenate(states)).mean())
            for inputs, states in (
                (self.inputs(), self._states),
                (self.first_inputs(), self._first_states),
            )
        )


def _energy(states: Floats) -> Floats:
    energy: Floats = np.square(states).sum(axis=1) + np.float32(1e-12)
    return energy

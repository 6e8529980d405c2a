"""One int8 scale for all tokens, where it does about as well as a scale a token.

It needs no pass over the inputs to find a row's scale and none over the outputs to apply it, and
biases are added within the product. What all tokens have in common, which a scale a token has to
cover too, is taken away first: by the zero point, which costs nothing, or channel by channel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lasttoken_export.quantisation.smoothing import OutputError, by_rows, some_outputs
from lasttoken_export.quantisation.weights import Floats

MIDDLE = 128
"""Zero point of a range that is symmetric around zero."""
WITHIN = 1.4
"""How many times the error of a scale a token is taken; see docs/precisions.md."""
_RANGES = np.geomspace(1, 0.05, 20)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FixedInputs:
    """How all inputs of a linear layer become codes from 0 to 255.

    Attributes:
        scale: What a step is worth.
        zero_point: Code of zero.
        offset: ``[in]`` taken away from the inputs before; None for nothing.
    """

    scale: float
    zero_point: int
    offset: Floats | None = None

    def rounded(self, inputs: Floats) -> Floats:
        """Return inputs ``[tokens, in]``, the offset taken away, as their codes say them."""
        centred = inputs if self.offset is None else inputs - self.offset
        codes = np.clip(np.rint(centred / self.scale) + self.zero_point, 0, 255)
        rounded: Floats = ((codes - self.zero_point) * np.float32(self.scale)).astype(np.float32)
        return rounded


def find_fixed_inputs(weight: Floats, inputs: Floats, mean: Floats) -> FixedInputs | None:
    """Search for one scale that does about as well as a scale a token.

    Args:
        weight: ``[in, out]`` in floats: only the inputs' error counts.
        inputs: ``[tokens, in]`` sampled inputs.
        mean: ``[in]`` of all inputs.

    Returns:
        With no offset where that is good enough, else with one; None where neither is.
    """
    searched = some_outputs(weight)
    error = OutputError(searched, inputs)
    most = WITHIN * error.of(by_rows(inputs), searched)
    lowest, highest = min(float(inputs.min()), 0.0), max(float(inputs.max()), 1e-6)
    widest = float(np.abs(inputs - mean).max())
    by_zero_point = [_between(lowest * part, highest * part) for part in _RANGES]
    by_channel = [
        FixedInputs(scale=max(widest * part, 1e-6) / 127, zero_point=MIDDLE, offset=mean)
        for part in _RANGES
    ]
    shift = mean @ searched
    for candidates, shifted in ((by_zero_point, 0), (by_channel, shift)):
        losses = [error.of_outputs(f.rounded(inputs) @ searched + shifted) for f in candidates]
        least = int(np.argmin(losses))
        if losses[least] <= most:
            return candidates[least]
    return None


def _between(lowest: float, highest: float) -> FixedInputs:
    scale = (highest - lowest) / 255
    return FixedInputs(scale=scale, zero_point=int(np.clip(round(-lowest / scale), 0, 255)))

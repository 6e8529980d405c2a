"""One int8 scale for all tokens, where its error is small or hardly more than a scale a token's.

It needs no pass over the inputs to find a row's scale and none over the outputs to apply it, and
biases are added within the product. What all tokens have in common, which a scale a token has to
cover too, is taken away first: by the zero point, which costs nothing, or channel by channel.

Source: Outlier Suppression+, https://arxiv.org/abs/2304.09145, channel-wise shifting.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lasttoken_export.quantisation.smoothing import OutputError, by_rows, some_outputs
from lasttoken_export.quantisation.weights import Floats

MIDDLE = 128
"""Zero point of a range that is symmetric around zero."""
MOST_OF_ALL = 2e-3
"""Mean relative squared error of one linear layer's output that one scale for its inputs may make,
times the layers of the model, in which such errors add up; see docs/precisions.md."""
AS_GOOD = 1.4
"""Times the error of a scale a token, up to which it is taken however large it is."""
_WORTH_AN_OFFSET = 1.2
"""An offset is a pass over the inputs; the zero point is none."""
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


def find_fixed_inputs(
    weight: Floats, inputs: Floats, mean: Floats, *, most: float
) -> FixedInputs | None:
    """Search for one scale for all tokens.

    Args:
        weight: ``[in, out]`` in floats: only the inputs' error counts.
        inputs: ``[tokens, in]`` sampled inputs.
        mean: ``[in]`` of all inputs.
        most: Mean relative squared error of the output that is taken at least.

    Returns:
        With an offset where that is clearly better; None where the error is too large.
    """
    searched = some_outputs(weight)
    error = OutputError(searched, inputs)

    def best(candidates: list[FixedInputs]) -> tuple[float, FixedInputs]:
        losses = []
        for fixed in candidates:
            shift = 0 if fixed.offset is None else fixed.offset @ searched
            losses.append(error.of_outputs(fixed.rounded(inputs) @ searched + shift))
        least = int(np.argmin(losses))
        return losses[least], candidates[least]

    lowest, highest = min(float(inputs.min()), 0.0), max(float(inputs.max()), 1e-6)
    by_zero_point = best([_between(lowest * part, highest * part) for part in _RANGES])
    widest = max(float(np.abs(inputs - mean).max()), 1e-6) / 127
    by_channel = best(
        [FixedInputs(scale=widest * part, zero_point=MIDDLE, offset=mean) for part in _RANGES]
    )
    worth_it = by_channel[0] * _WORTH_AN_OFFSET < by_zero_point[0]
    loss, fixed = by_channel if worth_it else by_zero_point
    as_good = AS_GOOD * error.of(by_rows(inputs), searched)
    return fixed if loss <= max(most, as_good) else None


def _between(lowest: float, highest: float) -> FixedInputs:
    scale = (highest - lowest) / 255
    return FixedInputs(scale=scale, zero_point=int(np.clip(round(-lowest / scale), 0, 255)))

"""One scale for all inputs of a linear layer, symmetric around zero, as TensorRT wants it.

What all tokens have in common would be rounded with each of them. Where it is worth a subtraction
it is taken away first, channel by channel; it comes back with the bias.

Source: Outlier Suppression+, https://arxiv.org/abs/2304.09145, channel-wise shifting.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from lasttoken_export.quantisation.smoothing import OutputError, some_outputs
from lasttoken_export.quantisation.weights import (
    FP8_LARGEST,
    Floats,
    in_half_precision,
    to_fp8,
    to_int8,
)

_CLIPS = {"int8": np.geomspace(1, 0.1, 12).tolist(), "fp8": [2.0]}
"""Times the range that is covered: int8 may saturate; a float loses nothing by some room."""
_LARGEST_CODE = {"int8": 127.0, "fp8": FP8_LARGEST}
_WORTH_AN_OFFSET = 1.2
"""Times smaller that the error must be: an offset is a pass over the inputs."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StaticInputs:
    """How all inputs of a linear layer become codes.

    Attributes:
        kind: ``int8`` or ``fp8``.
        scale: What a code of 1 is worth.
        offset: ``[in]`` taken away from the inputs before; None for nothing.
    """

    kind: str
    scale: float
    offset: Floats | None = None

    def rounded(self, inputs: Floats) -> Floats:
        """Return inputs ``[tokens, in]``, the offset taken away, as their codes say them."""
        centred = inputs if self.offset is None else inputs - self.offset
        scale = np.asarray(self.scale, np.float32)
        codes = (to_int8 if self.kind == "int8" else to_fp8)(centred, scale)
        rounded: Floats = codes.astype(np.float32) * scale
        return rounded


def find_static_inputs(
    kind: str, weight: Floats, inputs: Floats, *, mean: Floats, extremes: Floats
) -> tuple[StaticInputs, float]:
    """Search range and offset for the least error of the output.

    Args:
        kind: ``int8`` or ``fp8``.
        weight: ``[in, out]`` in floats: only the inputs' error counts.
        inputs: ``[tokens, in]`` sampled inputs.
        mean: ``[in]`` of all inputs.
        extremes: ``[n, in]`` inputs, or bounds of them, as large as any.

    Returns:
        What was found, and the mean relative squared error of the output.
    """
    searched = some_outputs(weight)
    error = OutputError(searched, inputs)
    plain = StaticInputs(kind=kind, scale=0.0)
    centred = replace(plain, offset=in_half_precision(mean))

    def best(without_scale: StaticInputs) -> tuple[float, StaticInputs]:
        offset = 0 if without_scale.offset is None else without_scale.offset
        largest = float(np.abs(extremes - offset).max())
        candidates = [
            replace(without_scale, scale=max(largest, 1e-6) * clip / _LARGEST_CODE[kind])
            for clip in _CLIPS[kind]
        ]
        back = offset @ searched if without_scale.offset is not None else 0
        losses = [error.of_outputs(one.rounded(inputs) @ searched + back) for one in candidates]
        least = int(np.argmin(losses))
        return losses[least], candidates[least]

    loss, chosen = best(plain)
    loss_centred, chosen_centred = best(centred)
    if loss_centred * _WORTH_AN_OFFSET < loss:
        return chosen_centred, loss_centred
    return chosen, loss

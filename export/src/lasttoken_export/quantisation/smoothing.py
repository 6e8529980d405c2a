"""SmoothQuant: moving outliers of activations into the weights, channel by channel.

The inputs of a linear layer are divided by a factor a channel, the rows of its weights multiplied
by it. The division costs nothing where it can be folded into what makes the inputs. The strength
and the range of the activations are searched for the least error on sampled tokens; a token's error
counts relative to its own output, so the few tokens of massive activations do not decide for all.

Source: SmoothQuant, https://arxiv.org/abs/2211.10438, equations 3 and 4.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lasttoken_export.quantisation.weights import Floats, int8_channel_scales, to_int8

_STRENGTHS = (0.0, 0.5, 0.65, 0.8)
_CLIPS = (1.0, 0.7, 0.45)
_LARGEST_FACTOR = 1e4


@dataclass(frozen=True, slots=True, kw_only=True)
class Smoothing:
    """What was found for one linear layer.

    Attributes:
        factors: ``[in]`` what the inputs are divided by.
        largest: Largest absolute input after the division.
        clip: Part of `largest` that int8 covers; what is beyond saturates.
        static_error: Mean relative squared error of the output with one scale for all tokens.
        row_error: The same with one scale a token.
    """

    factors: Floats
    largest: float
    clip: float
    static_error: float
    row_error: float


def find_smoothing(
    weight: Floats, inputs: Floats, largest: Floats, channels: NDArray[np.int64] | None
) -> Smoothing:
    """Search strength and range.

    Args:
        weight: ``[in, out]``.
        inputs: ``[tokens, in]`` sampled inputs.
        largest: ``[in]`` largest absolute input of every calibration token.
        channels: ``[in]`` channels of what makes the inputs: inputs of one channel share a factor;
            None for a channel each.
    """
    outputs = inputs @ weight
    energy = np.square(outputs).sum(axis=1) + 1e-12
    in_channels = np.arange(len(largest)) if channels is None else channels
    by_weight = _per_channel(np.abs(weight).max(axis=1), in_channels)
    by_input = _per_channel(largest, in_channels)

    def error(quantised: Floats, rounded: Floats) -> float:
        return float((np.square(quantised @ rounded - outputs).sum(axis=1) / energy).mean())

    found: list[tuple[float, int, Floats, Floats]] = []
    for number, strength in enumerate(_STRENGTHS):
        factors = _factors(by_input, by_weight, strength)
        rounded = _rounded(weight * factors[:, None])
        scale = _scale(max(float((largest / factors).max()), 1e-6))
        loss = error(to_int8(inputs / factors, scale) * scale, rounded)
        found.append((loss, number, factors, rounded))
    _, _, factors, rounded = min(found, key=lambda candidate: candidate[:2])
    smoothed = inputs / factors
    after = max(float((largest / factors).max()), 1e-6)
    clips = []
    for clip in _CLIPS:
        scale = _scale(after * clip)
        clips.append((error(to_int8(smoothed, scale) * scale, rounded), -clip))
    static_error, negative = min(clips)
    row_scales = np.maximum(np.abs(smoothed).max(axis=1, keepdims=True), 1e-9) / 127
    row_error = error(to_int8(smoothed, row_scales) * row_scales, rounded)
    return Smoothing(
        factors=factors,
        largest=after,
        clip=-negative,
        static_error=static_error,
        row_error=row_error,
    )


def _scale(largest: float) -> Floats:
    return np.asarray(largest / 127, np.float32)


def _per_channel(values: Floats, channels: NDArray[np.int64]) -> Floats:
    """Return, for each input, the largest value of the inputs of its channel."""
    largest = np.zeros(int(channels.max()) + 1, np.float32)
    np.maximum.at(largest, channels, values)
    return largest[channels]


def _factors(by_input: Floats, by_weight: Floats, strength: float) -> Floats:
    if strength == 0:
        return np.ones_like(by_input)
    floor = 1e-5
    factors = np.maximum(by_input, floor) ** strength / np.maximum(by_weight, floor) ** (
        1 - strength
    )
    factors /= np.exp(np.log(factors).mean())
    return np.clip(factors, 1 / _LARGEST_FACTOR, _LARGEST_FACTOR).astype(np.float32)


def _rounded(weight: Floats) -> Floats:
    scales = int8_channel_scales(weight)
    return to_int8(weight, scales) * scales

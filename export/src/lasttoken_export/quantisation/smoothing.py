"""SmoothQuant: moving outliers of activations into the weights, channel by channel.

The inputs of a linear layer are divided by a factor a channel, the rows of its weights multiplied
by it. The division costs nothing where it can be folded into what makes the inputs. The strength
is searched for the least error on sampled tokens; a token's error counts relative to its own
output, so the few tokens of massive activations do not decide for all.

Source: SmoothQuant, https://arxiv.org/abs/2211.10438, equations 3 and 4.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lasttoken_export.quantisation.weights import Floats, int8_channel_scales, to_int8

_STRENGTHS = (0.0, 0.5, 0.65, 0.8)
_ROW_STRENGTHS = (0.0, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
_SEARCHED_OUTPUTS = 256
"""Outputs whose error is compared: all are rounded alike, so a part of them tells."""
_USUAL_SHARE = 0.999
"""Where each row has a scale of its own, a channel's usual range counts, not its largest value."""
_LARGEST_FACTOR = 1e4


@dataclass(frozen=True, slots=True, kw_only=True)
class Smoothing:
    """What was found for one linear layer.

    Attributes:
        factors: ``[in]`` what the inputs are divided by.
        error: Mean relative squared error of the output.
    """

    factors: Floats
    error: float


def find_smoothing(
    weight: Floats, inputs: Floats, largest: Floats, channels: NDArray[np.int64] | None
) -> Smoothing:
    """Search factors for one int8 scale for all tokens.

    Args:
        weight: ``[in, out]``.
        inputs: ``[tokens, in]`` sampled inputs.
        largest: ``[in]`` largest absolute input of every calibration token.
        channels: ``[in]`` channels of what makes the inputs: inputs of one channel share a factor;
            None for a channel each.
    """
    searched = some_outputs(weight)
    error = OutputError(searched, inputs)
    in_channels = np.arange(len(largest)) if channels is None else channels
    by_weight = _per_channel(np.abs(weight).max(axis=1), in_channels)
    by_input = _per_channel(largest, in_channels)
    found: list[tuple[float, int, Floats]] = []
    for number, strength in enumerate(_STRENGTHS):
        factors = _factors(by_input, by_weight, strength)
        scale = _scale(max(float((largest / factors).max()), 1e-6))
        rounded_inputs = to_int8(inputs / factors, scale) * scale
        loss = error.of(rounded_inputs, _rounded(searched * factors[:, None]))
        found.append((loss, number, factors))
    least, _, factors = min(found, key=lambda candidate: candidate[:2])
    return Smoothing(factors=factors, error=least)


def find_row_smoothing(
    weight: Floats, inputs: Floats, largest: Floats, channels: NDArray[np.int64] | None
) -> Smoothing:
    """Search factors for a scale a token; arguments as of `find_smoothing`."""
    searched = some_outputs(weight)
    error = OutputError(searched, inputs)
    in_channels = np.arange(len(largest)) if channels is None else channels
    by_weight = _per_channel(np.abs(weight).max(axis=1), in_channels)
    usual = np.quantile(np.abs(inputs), _USUAL_SHARE, axis=0).astype(np.float32)
    found: list[tuple[float, int, Floats]] = []
    for ranges in (largest, usual):
        by_input = _per_channel(ranges, in_channels)
        for strength in _ROW_STRENGTHS:
            factors = _factors(by_input, by_weight, strength)
            loss = error.of(by_rows(inputs / factors), _rounded(searched * factors[:, None]))
            found.append((loss, len(found), factors))
    least, _, factors = min(found, key=lambda candidate: candidate[:2])
    return Smoothing(factors=factors, error=least)


def row_error(weight: Floats, inputs: Floats, rounded: Floats | None = None) -> float:
    """Mean relative squared error of the output with a scale a token.

    Args:
        weight: ``[in, out]``.
        inputs: ``[tokens, in]``.
        rounded: ``[in, out]`` the weights after rounding; None for rounding to nearest, where
            some of the outputs tell.
    """
    if rounded is None:
        weight = some_outputs(weight)
        rounded = _rounded(weight)
    return OutputError(weight, inputs).of(by_rows(inputs), rounded)


def some_outputs(weight: Floats) -> Floats:
    """Return a part of the columns of ``[in, out]``, evenly spread."""
    count = weight.shape[1]
    chosen = np.unique(np.linspace(0, count - 1, min(_SEARCHED_OUTPUTS, count)).astype(int))
    return weight[:, chosen]


def by_rows(inputs: Floats) -> Floats:
    """Round inputs ``[tokens, in]`` to int8 with a scale a token, and back."""
    scales = np.maximum(np.abs(inputs).max(axis=1, keepdims=True), 1e-9) / 127
    rounded: Floats = to_int8(inputs, scales) * scales
    return rounded


FINER = 254
"""Steps of `by_rows_twice`'s second rounding in one of the first."""


def by_rows_twice(inputs: Floats) -> Floats:
    """Round like `by_rows`, and what that leaves once more, to 127 steps of half of one of them."""
    scales = np.maximum(np.abs(inputs).max(axis=1, keepdims=True), 1e-9) / 127
    rounded: Floats = to_int8(inputs, scales) * scales
    finer = scales / FINER
    rounded += to_int8(inputs - rounded, finer) * finer
    return rounded


class OutputError:
    """Compares outputs with those of a linear layer in floats.

    Args:
        weight: ``[in, out]``.
        inputs: ``[tokens, in]``.
    """

    def __init__(self, weight: Floats, inputs: Floats) -> None:
        self._outputs = inputs @ weight
        self._energy = np.square(self._outputs).sum(axis=1) + 1e-12

    def of(self, inputs: Floats, weight: Floats) -> float:
        """Mean relative squared error of the outputs of other inputs or weights."""
        return self.of_outputs(inputs @ weight)

    def of_outputs(self, outputs: Floats) -> float:
        """Mean relative squared error of outputs ``[tokens, out]``."""
        off = np.square(outputs - self._outputs).sum(axis=1)
        return float((off / self._energy).mean())


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

"""What is gathered of the inputs of a linear layer, and what is made of it: one class a scheme."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from lasttoken_export.checkpoint import Checkpoint
from lasttoken_export.graph.linear_layer import LinearLayer
from lasttoken_export.quantisation.calibration import (
    BLOCKS,
    ROWS,
    ROWS_FLOATS_ABOVE,
    STATIC,
    pack_int4,
)
from lasttoken_export.quantisation.gptq import gptq_int4, gptq_int8
from lasttoken_export.quantisation.input_changes import InputChange, InputChanges
from lasttoken_export.quantisation.rotation import (
    head_block,
    online_block,
    rotate_columns,
    rotate_gram,
    rotate_rows,
)
from lasttoken_export.quantisation.smoothing import (
    find_row_smoothing,
    find_smoothing,
    row_error,
    some_outputs,
)
from lasttoken_export.quantisation.weights import Floats, block_size

_SAMPLED_TOKENS = {STATIC: 256, ROWS: 512}
ROTATED_ABOVE = 2e-4
"""Error with smoothing above which inputs are rotated where that costs a product; see
docs/precisions.md."""


class Observer(Protocol):
    """Sees the inputs of a linear layer, batch by batch."""

    linear: LinearLayer

    def see(self, values: Floats) -> None:
        """Take the inputs of a batch: ``[tokens, in]``."""

    def choose(self) -> InputChange:
        """Return what shall be done to the inputs, when all are seen."""

    def result(self, changes: InputChanges) -> dict[str, Any]:
        """Return the arrays to keep, when all linear layers of the layer have chosen."""


def make_observer(
    scheme: str,
    linear: LinearLayer,
    checkpoint: Checkpoint,
    *,
    tokens: int,
    seed: int,
    is_early: bool,
) -> Observer:
    """Return the observer of a scheme.

    Args:
        scheme: Of `scheme_of`.
        linear: The layer.
        checkpoint: Has its weights.
        tokens: Tokens of all calibration texts.
        seed: Decides which of them are sampled.
        is_early: Whether the layer is one of the model's first, whose errors all others take on.
    """

    def weight() -> Floats:
        return linear.read_weight(checkpoint, np.dtype(np.float32), None)

    if scheme == BLOCKS:
        return _BlockObserver(linear, weight)
    sample = _Sample(linear.in_features, _SAMPLED_TOKENS[scheme], tokens, seed)
    if scheme == ROWS:
        return _RowObserver(linear, checkpoint, sample, is_early)
    return _StaticObserver(linear, weight, sample)


class _Sample:
    """Some of the inputs, the same tokens for every layer, and the largest of all."""

    def __init__(self, size: int, most: int, tokens: int, seed: int) -> None:
        self.largest = np.zeros(size, np.float32)
        chosen = np.random.default_rng(seed).choice(tokens, min(most, tokens), replace=False)
        self._chosen = np.sort(chosen)
        self._seen = 0
        self._rows: list[Floats] = []

    def see(self, values: Floats) -> None:
        np.maximum(self.largest, np.abs(values).max(axis=0), out=self.largest)
        here = self._chosen[(self._chosen >= self._seen)] - self._seen
        self._rows.append(values[here[here < len(values)]])
        self._seen += len(values)

    def inputs(self) -> Floats:
        return np.concatenate(self._rows)


class _StaticObserver:
    """SmoothQuant, one scale for all tokens."""

    def __init__(self, linear: LinearLayer, weight: Callable[[], Floats], sample: _Sample) -> None:
        self.linear, self._weight, self._sample = linear, weight, sample

    def see(self, values: Floats) -> None:
        self._sample.see(values)

    def choose(self) -> InputChange:
        self._found = find_smoothing(
            self._weight(), self._sample.inputs(), self._sample.largest, _channels(self.linear)
        )
        return InputChange(factors=self._found.factors)

    def result(self, changes: InputChanges) -> dict[str, Any]:
        del changes
        found = self._found
        return {
            "factors": found.factors,
            "range": np.asarray([found.largest, found.clip], np.float32),
            "errors": np.asarray([found.error], np.float32),
        }


class _RowObserver:
    """A scale a token: smoothed or rotated inputs, and GPTQ of the weights in int8."""

    def __init__(
        self, linear: LinearLayer, checkpoint: Checkpoint, sample: _Sample, is_early: bool
    ) -> None:
        self.linear, self._checkpoint, self._sample = linear, checkpoint, sample
        self._is_early = is_early
        self._outputs = some_outputs(self._read(None))
        self._gram = np.zeros((linear.in_features, linear.in_features), np.float32)

    def see(self, values: Floats) -> None:
        self._sample.see(values)
        # Each token's error counts relative to its own output.
        energy = np.square(values @ self._outputs).mean(axis=1, keepdims=True)
        even = values / np.sqrt(energy + 1e-12)
        self._gram += even.T @ even

    def choose(self) -> InputChange:
        inputs, weight = self._sample.inputs(), self._read(None)
        smoothed = find_row_smoothing(weight, inputs, self._sample.largest, _channels(self.linear))
        best = InputChange(factors=smoothed.factors), smoothed.error
        fold = self.linear.fold
        if fold is not None and fold.head_dim is not None:
            block = head_block(fold.head_dim)
        elif smoothed.error > ROTATED_ABOVE:
            block = online_block(self.linear.in_features)
        else:
            block = None  # a product that is not worth its cost
        if block is not None:
            for factors in (smoothed.factors, np.ones_like(smoothed.factors)):
                rows = rotate_rows(weight * factors[:, None], block)
                error = row_error(rows, rotate_columns(inputs / factors, block))
                if error < best[1]:
                    best = InputChange(factors=factors, rotation=block), error
        return best[0]

    def result(self, changes: InputChanges) -> dict[str, Any]:
        factors, block = changes.factors(self.linear.name), changes.rotation(self.linear.name)
        inputs = self._sample.inputs() / factors
        gram = self._gram / factors[:, None] / factors
        if block is not None:
            inputs, gram = rotate_columns(inputs, block), rotate_gram(gram, block)
        weight = self._read(changes)
        codes, scales = gptq_int8(weight, gram)
        error = row_error(weight, inputs, codes * scales)
        early_heads = self._is_early and self.linear.makes_heads
        return {
            "factors": factors,
            "rotation": np.asarray(block or 0, np.int32),
            "int8_codes": codes,
            "int8_scales": scales,
            "errors": np.asarray([error], np.float32),
            "floats": np.asarray(early_heads or error > ROWS_FLOATS_ABOVE),
        }

    def _read(self, changes: InputChanges | None) -> Floats:
        return self.linear.read_weight(self._checkpoint, np.dtype(np.float32), changes)


class _BlockObserver:
    """GPTQ of the weights in int4, a scale a block."""

    def __init__(self, linear: LinearLayer, weight: Callable[[], Floats]) -> None:
        self.linear, self._weight = linear, weight
        self._gram = np.zeros((linear.in_features, linear.in_features), np.float32)

    def see(self, values: Floats) -> None:
        # Each token counts alike, however massive its activations are.
        unit = values / (np.sqrt(np.square(values).mean(axis=1, keepdims=True)) + 1e-9)
        self._gram += unit.T @ unit

    def choose(self) -> InputChange:
        return InputChange(factors=np.ones(self.linear.in_features, np.float32))

    def result(self, changes: InputChanges) -> dict[str, Any]:
        del changes
        block = block_size(self.linear.in_features)
        if block is None:
            return {}  # refused when the graph is built
        codes, scales = gptq_int4(self._weight(), self._gram, block)
        return {"int4_codes": pack_int4(codes), "int4_scales": scales}


def _channels(linear: LinearLayer) -> Any:
    return None if linear.fold is None else linear.fold.channels

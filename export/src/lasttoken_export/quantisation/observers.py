"""What is gathered of the inputs of a linear layer, and what is made of it: one class a scheme."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from lasttoken_export.checkpoint import Checkpoint
from lasttoken_export.graph.linear_layer import LinearLayer
from lasttoken_export.quantisation.calibration import BLOCKS, ROWS, STATIC, pack_int4
from lasttoken_export.quantisation.gptq import gptq_int4
from lasttoken_export.quantisation.gram import Gram
from lasttoken_export.quantisation.input_changes import InputChange, InputChanges
from lasttoken_export.quantisation.int8_observer import Int8Observer
from lasttoken_export.quantisation.sampled_tokens import LayerBatch, SampledTokens
from lasttoken_export.quantisation.static_observer import StaticObserver
from lasttoken_export.quantisation.weights import Floats, block_size

_SAMPLED_TOKENS = 512


class Observer(Protocol):
    """Sees the inputs of a linear layer, batch by batch."""

    linear: LinearLayer

    def see(self, values: Floats, batch: LayerBatch) -> None:
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
    sample = SampledTokens(linear.in_features, _SAMPLED_TOKENS, tokens, seed)
    if scheme == ROWS:
        return Int8Observer(linear, checkpoint, sample, is_early=is_early)
    kind = next(kind for kind, static in STATIC.items() if static == scheme)
    return StaticObserver(kind, linear, checkpoint, sample, is_early=is_early)


class _BlockObserver:
    """GPTQ of the weights in int4, a scale a block."""

    def __init__(self, linear: LinearLayer, weight: Callable[[], Floats]) -> None:
        self.linear, self._weight = linear, weight
        self._gram = Gram(linear.in_features)

    def see(self, values: Floats, batch: LayerBatch) -> None:
        del batch
        # Each token counts alike, however massive its activations are.
        unit = values / (np.sqrt(np.square(values).mean(axis=1, keepdims=True)) + 1e-9)
        self._gram.add(unit)

    def choose(self) -> InputChange:
        return InputChange(factors=np.ones(self.linear.in_features, np.float32))

    def result(self, changes: InputChanges) -> dict[str, Any]:
        del changes
        block = block_size(self.linear.in_features)
        if block is None:
            return {}  # refused when the graph is built
        codes, scales = gptq_int4(self._weight(), self._gram.take(), block)
        return {"int4_codes": pack_int4(codes), "int4_scales": scales}

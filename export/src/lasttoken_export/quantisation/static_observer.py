"""int8 and fp8 on TensorRT: smoothed inputs with one scale for all tokens, GPTQ of the weights."""

from __future__ import annotations

from typing import Any

import numpy as np

from lasttoken_export.checkpoint import Checkpoint
from lasttoken_export.graph.linear_layer import LinearLayer
from lasttoken_export.quantisation.calibration import STATIC_FLOATS_ABOVE
from lasttoken_export.quantisation.gptq import gptq_fp8, gptq_int8
from lasttoken_export.quantisation.gram import subtract_common
from lasttoken_export.quantisation.input_changes import InputChange, InputChanges
from lasttoken_export.quantisation.relative_gram import RelativeGram
from lasttoken_export.quantisation.rotation import head_block, online_block, rotate_rows
from lasttoken_export.quantisation.sampled_tokens import LayerBatch, SampledTokens
from lasttoken_export.quantisation.smoothing import OutputError, find_smoothing, some_outputs
from lasttoken_export.quantisation.static_inputs import StaticInputs, find_static_inputs
from lasttoken_export.quantisation.weights import Floats, in_half_precision, int8_channel_scales

ROTATED_ABOVE = 1e-3
"""Error of rounded inputs above which they are rotated where that costs a product; see
docs/precisions.md."""
STATES_MOST_OF_ALL = 1e-2
"""As of `int8_observer`, for int8 with one scale for all tokens; fp8 gained nothing by it."""


class StaticObserver:
    """Implements `Observer`.

    Args:
        kind: ``int8`` or ``fp8``.
        linear: The layer.
        checkpoint: Has its weights.
        sample: Gathers tokens.
        is_early: Whether the layer is one of the model's first, whose errors all others take on.
    """

    def __init__(
        self,
        kind: str,
        linear: LinearLayer,
        checkpoint: Checkpoint,
        sample: SampledTokens,
        *,
        is_early: bool,
    ) -> None:
        self._kind, self._checkpoint, self._sample = kind, checkpoint, sample
        self.linear, self._is_early = linear, is_early
        self._gram = RelativeGram(self._read(None))

    def see(self, values: Floats, batch: LayerBatch) -> None:
        """See `Observer`."""
        self._sample.see(values, batch)
        self._gram.see(values)

    def choose(self) -> InputChange:
        """See `Observer`."""
        sample, channels, weight = self._sample, self.linear.input_channels, self._read(None)
        found = find_smoothing(weight, sample.inputs(), sample.largest, channels)
        plain = InputChange(factors=found.factors)
        if self._kind == "fp8":  # a float's error is relative: outliers do no harm
            return plain
        fold, error = self.linear.fold, self._error(plain)
        if fold is not None and fold.head_dim is not None:
            block = head_block(fold.head_dim)
        elif error > ROTATED_ABOVE:
            block = online_block(self.linear.in_features)
        else:
            block = None  # a product that is not worth its cost
        if block is None:
            return plain
        best = plain, error
        for factors in (found.factors, np.ones_like(found.factors)):
            change = InputChange(factors=factors, rotation=block)
            error = self._error(change)
            if error < best[1]:
                best = change, error
        return best[0]

    def _error(self, change: InputChange) -> float:
        """Mean relative squared error of the output from rounding inputs alone."""
        weight = some_outputs(self._read(None)) * change.factors[:, None]
        if change.rotation is not None:
            weight = rotate_rows(weight, change.rotation)
        return self._find_inputs(change, weight)[1]

    def _find_inputs(self, change: InputChange, weight: Floats) -> tuple[StaticInputs, float]:
        sample = self._sample
        inputs = change.applied(sample.inputs())
        if change.rotation is None:
            extremes = change.applied(np.stack([sample.lowest, sample.highest]))
        else:
            extremes = np.concatenate([inputs, change.applied(sample.first_inputs())])
        mean = change.applied(self._gram.mean()[None])[0]
        return find_static_inputs(self._kind, weight, inputs, mean=mean, extremes=extremes)

    def result(self, changes: InputChanges) -> dict[str, Any]:
        """See `Observer`."""
        kind, name = self._kind, self.linear.name
        change = InputChange(factors=changes.factors(name), rotation=changes.rotation(name))
        weight = self._read(changes)
        fixed, _ = self._find_inputs(change, weight)
        mean = change.applied(self._gram.mean()[None])[0]
        # What all tokens have in common is in the bias: weights are rounded for what is left.
        gram = self._gram.take_matrix()
        change.apply_to_gram(gram)
        subtract_common(gram, mean, self._gram.weight)
        if kind == "int8":
            scales = in_half_precision(int8_channel_scales(weight))
            codes: Any = gptq_int8(weight, gram, scales)[0]
            rounded, stored = codes * scales, codes
        else:
            codes, scales = gptq_fp8(weight, gram)
            rounded, stored = codes.astype(np.float32) * scales, codes.view(np.uint8)
        covered = mean if fixed.offset is None else mean - fixed.offset
        bias = mean @ weight - covered @ rounded

        def outputs(inputs: Floats) -> Floats:
            found: Floats = fixed.rounded(inputs) @ rounded + bias
            return found

        inputs = change.applied(self._sample.inputs())
        error = OutputError(weight, inputs).of_outputs(outputs(inputs))
        needs_floats = error > STATIC_FLOATS_ABOVE
        if kind == "int8" and not needs_floats:
            if self.linear.adds_to_states:
                most = STATES_MOST_OF_ALL / self._checkpoint.config.num_layers
                needs_floats = most < self._sample.error_of_states(
                    lambda values: outputs(change.applied(values)) - change.applied(values) @ weight
                )
            else:  # in an encoder's first MLPs massive activations begin
                needs_floats = self._is_early and self.linear.narrows
        offset = {} if fixed.offset is None else {"offset": fixed.offset}
        return {
            "factors": change.factors,
            "rotation": np.asarray(change.rotation or 0, np.int32),
            "input_scale": np.asarray(fixed.scale, np.float32),
            **offset,
            f"{kind}_codes": stored,
            f"{kind}_scales": scales,
            f"{kind}_bias": bias,
            "errors": np.asarray([error], np.float32),
            "floats": np.asarray(needs_floats),
        }

    def _read(self, changes: InputChanges | None) -> Floats:
        return self.linear.read_weight(self._checkpoint, np.dtype(np.float32), changes)

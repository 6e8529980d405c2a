"""int8 on ONNX Runtime's CPU provider: smoothed or rotated inputs, and GPTQ of the weights."""

from __future__ import annotations

from typing import Any

import numpy as np

from lasttoken_export.checkpoint import Checkpoint
from lasttoken_export.graph.linear_layer import LinearLayer
from lasttoken_export.quantisation.calibration import ROWS_FLOATS_ABOVE
from lasttoken_export.quantisation.fixed_inputs import MOST_OF_ALL, FixedInputs, find_fixed_inputs
from lasttoken_export.quantisation.gptq import gptq_int8
from lasttoken_export.quantisation.gram import subtract_common
from lasttoken_export.quantisation.input_changes import InputChange, InputChanges
from lasttoken_export.quantisation.relative_gram import RelativeGram
from lasttoken_export.quantisation.rotation import (
    head_block,
    online_block,
    rotate_columns,
    rotate_rows,
)
from lasttoken_export.quantisation.sampled_tokens import LayerBatch, SampledTokens
from lasttoken_export.quantisation.smoothing import (
    OutputError,
    by_rows,
    by_rows_twice,
    find_row_smoothing,
    row_error,
)
from lasttoken_export.quantisation.weights import Floats

ROTATED_ABOVE = 2e-4
"""Error with smoothing above which inputs are rotated where that costs a product; see
docs/precisions.md."""
WORTH_A_PASS = 1.2
"""Times the error with smoothing up to which inputs are left as they are, where smoothing them is a
pass of its own."""
STATES_MOST_OF_ALL = 6e-4
"""Mean squared error that a linear layer may add to hidden states, relative to them, times the
layers of the model, for all tokens and for first ones, to which all others attend; one that adds
more has its inputs rounded twice or, where that is not enough, stays in floats; see
docs/precisions.md."""


class Int8Observer:
    """Implements `Observer`.

    Args:
        linear: The layer.
        checkpoint: Has its weights.
        sample: Gathers tokens.
        is_early: Whether the layer is one of the model's first, whose errors all others take on.
    """

    def __init__(
        self, linear: LinearLayer, checkpoint: Checkpoint, sample: SampledTokens, *, is_early: bool
    ) -> None:
        self._model_layers = checkpoint.config.num_layers
        self.linear, self._checkpoint, self._sample = linear, checkpoint, sample
        self._is_early = is_early
        self._gram = RelativeGram(self._read(None))

    def see(self, values: Floats, batch: LayerBatch) -> None:
        """See `Observer`."""
        self._sample.see(values, batch)
        self._gram.see(values)

    def choose(self) -> InputChange:
        """See `Observer`."""
        inputs, weight = self._sample.inputs(), self._read(None)
        fold = self.linear.fold
        smoothed = find_row_smoothing(
            weight, inputs, self._sample.largest, self.linear.input_channels
        )
        best = InputChange(factors=smoothed.factors), smoothed.error
        none = np.ones_like(smoothed.factors)
        worth_none = WORTH_A_PASS if fold is None else 1.0
        error = row_error(weight, inputs)
        if error <= worth_none * best[1]:
            best = InputChange(factors=none), error
        if fold is not None and fold.head_dim is not None:
            block = head_block(fold.head_dim)
        elif smoothed.error > ROTATED_ABOVE:
            block = online_block(self.linear.in_features)
        else:
            block = None  # a product that is not worth its cost
        if block is not None:
            for factors, worth in ((smoothed.factors, 1.0), (none, worth_none)):
                rows = rotate_rows(weight * factors[:, None], block)
                error = row_error(rows, rotate_columns(inputs / factors, block))
                if error < worth * best[1]:
                    best = InputChange(factors=factors, rotation=block), error
        return best[0]

    def result(self, changes: InputChanges) -> dict[str, Any]:
        """See `Observer`."""
        name = self.linear.name
        change = InputChange(factors=changes.factors(name), rotation=changes.rotation(name))
        mean = change.applied(self._gram.mean()[None])[0]
        gram = self._gram.take_matrix()
        change.apply_to_gram(gram)
        weight, inputs = self._read(changes), change.applied(self._sample.inputs())
        early_heads = self._is_early and self.linear.makes_heads
        fixed = None
        if not early_heads:
            fixed = find_fixed_inputs(weight, inputs, mean, most=MOST_OF_ALL / self._model_layers)
        expected = OutputError(weight, inputs)
        if fixed is not None and self._is_off(_Outputs(weight, fixed), expected, weight, change):
            fixed = None
        if fixed is not None:  # what all tokens have in common is in the bias
            subtract_common(gram, mean, self._gram.weight)
        codes, scales = gptq_int8(weight, gram)
        rounded = codes * scales
        bias = np.zeros(weight.shape[1], np.float32)
        if fixed is not None:
            covered = mean if fixed.offset is None else mean - fixed.offset
            bias = mean @ weight - covered @ rounded
        outputs = _Outputs(rounded, fixed, bias)
        needs_floats = early_heads or self._is_off(outputs, expected, weight, change)
        wide = False
        if needs_floats and fixed is None:
            outputs = _Outputs(rounded, wide=True)
            wide = not self._is_off(outputs, expected, weight, change)
            needs_floats = not wide
        error = expected.of_outputs(outputs.of(inputs))
        return {
            "factors": change.factors,
            "rotation": np.asarray(change.rotation or 0, np.int32),
            "int8_codes": codes,
            "int8_scales": scales,
            "int8_bias": bias,
            **_stored(fixed),
            "errors": np.asarray([error], np.float32),
            "floats": np.asarray(needs_floats),
            "wide": np.asarray(wide),
        }

    def _is_off(
        self, outputs: _Outputs, expected: OutputError, weight: Floats, change: InputChange
    ) -> bool:
        """Whether outputs are further from those in floats than int8 may be."""
        if expected.of_outputs(outputs.of(change.applied(self._sample.inputs()))) > (
            ROWS_FLOATS_ABOVE
        ):
            return True
        most = STATES_MOST_OF_ALL / self._model_layers
        return self.linear.adds_to_states and most < self._sample.error_of_states(
            lambda values: outputs.of(change.applied(values)) - change.applied(values) @ weight
        )

    def _read(self, changes: InputChanges | None) -> Floats:
        return self.linear.read_weight(self._checkpoint, np.dtype(np.float32), changes)


class _Outputs:
    """Outputs of the layer as int8 gives them.

    Args:
        weight: ``[in, out]`` as its codes say it.
        fixed: How inputs become codes; None for a scale a token.
        bias: ``[out]`` what is added; None for what `fixed` takes away.
        wide: Whether inputs are rounded twice.
    """

    def __init__(
        self,
        weight: Floats,
        fixed: FixedInputs | None = None,
        bias: Floats | None = None,
        *,
        wide: bool = False,
    ) -> None:
        self._weight, self._fixed = weight, fixed
        if bias is None and fixed is not None and fixed.offset is not None:
            bias = fixed.offset @ weight
        self._bias = np.zeros(weight.shape[1], np.float32) if bias is None else bias
        self._round = by_rows_twice if wide else by_rows
        if fixed is not None:
            self._round = fixed.rounded

    def of(self, inputs: Floats) -> Floats:
        outputs: Floats = self._round(inputs) @ self._weight + self._bias
        return outputs


def _stored(fixed: FixedInputs | None) -> dict[str, Any]:
    if fixed is None:
        return {}
    stored: dict[str, Any] = {"fixed": np.asarray([fixed.scale, fixed.zero_point], np.float32)}
    return stored if fixed.offset is None else stored | {"offset": fixed.offset}

"""Products of int8 on ONNX Runtime's CPU provider: unsigned activations, signed weights.

Activations have a scale a row or, where calibration found that it does as well, one for all rows;
either way no row depends on what else is in the batch. With one for all the product is done when
it is made; a scale a row takes passes over the inputs for it and one over the outputs. Where one
rounding is too coarse, what it leaves is rounded again and multiplied by the same weights.

ONNX has the product of integers and the scaling of its result as two operators; ONNX Runtime's own
one does both in one pass.

Source: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from lasttoken_export.graph.builder import GraphBuilder
from lasttoken_export.graph.linear_layer import Columns, LinearLayer
from lasttoken_export.graph.linear_weights import LinearWeights
from lasttoken_export.graph.product import Multiply, Product
from lasttoken_export.quantisation.calibration import Calibration
from lasttoken_export.quantisation.fixed_inputs import MIDDLE, FixedInputs
from lasttoken_export.quantisation.smoothing import FINER


class Int8Products:
    """Records the products of one graph.

    Args:
        graph: Graph under construction.
        weights: Records the weights.
        numpy_dtype: Float type of the graph in memory.
        calibration: Of int8 on ONNX Runtime's CPU provider; None where there are no such products.
    """

    def __init__(
        self,
        graph: GraphBuilder,
        weights: LinearWeights,
        *,
        numpy_dtype: np.dtype[Any],
        calibration: Calibration | None,
    ) -> None:
        self._graph, self._weights, self._numpy_dtype = graph, weights, numpy_dtype
        self._calibration = calibration
        self._zero_points: ir.Value | None = None

    def begin_rows(self) -> None:
        """Say that the values to come have other rows than those before."""
        self._zero_points = None

    def multiply(self, value: ir.Value, layer: LinearLayer, row_scale: ir.Value | None) -> Multiply:
        """Make inputs ready to be multiplied by some columns after the others.

        Args:
            value: ``[T, in]``.
            layer: The linear layer.
            row_scale: ``[T, 1]`` what ``value`` is still to be multiplied by; None for nothing.
        """
        assert self._calibration is not None
        fixed = self._calibration.fixed_inputs(layer.name)
        if fixed is None:
            wide = self._calibration.is_wide(layer.name)
            return self._by_rows(value, layer, row_scale, wide=wide)
        return self._by_one_scale(value, layer, fixed, row_scale)

    def _by_one_scale(
        self,
        value: ir.Value,
        layer: LinearLayer,
        fixed: FixedInputs,
        row_scale: ir.Value | None,
    ) -> Multiply:
        graph, name = self._graph, layer.short_name
        if row_scale is not None:
            value = graph.op("Mul", [value, row_scale], f"{name}_scaled")
        if fixed.offset is not None:
            offset = graph.constant(fixed.offset.astype(self._numpy_dtype))
            value = graph.op("Sub", [value, offset], f"{name}_centred")
        scale = graph.constant(np.asarray(fixed.scale, np.float32))
        zero_point = graph.constant(np.asarray(fixed.zero_point, np.uint8))
        codes = graph.op("QuantizeLinear", [value, scale, zero_point], f"{name}_codes")

        def multiply(columns: Columns) -> Product:
            weight, scales = self._weights.codes_and_scales(layer, columns)
            biases = self._weights.calibrated_biases(layer, columns)
            product = graph.op(
                "MatMulIntegerToFloat",
                [codes, weight, scale, scales, zero_point, None, biases],
                columns.short_name,
                domain="com.microsoft",
            )
            return Product(value=product, has_bias=True)

        return multiply

    def _by_rows(
        self,
        value: ir.Value,
        layer: LinearLayer,
        outer_scale: ir.Value | None,
        *,
        wide: bool,
    ) -> Multiply:
        """Multiply rows each with a scale of its own, wide ones in two parts.

        The second part is what rounding to the first has left, in finer steps of the same row.
        A row of zeros has scale 0; whatever codes dividing by it gives, the result is zero again.
        """
        graph, name = self._graph, layer.short_name
        row_scale = self._row_scale(value, name)
        flat = graph.op(
            "Squeeze", [row_scale, graph.constant(np.asarray([1], np.int64))], f"{name}_scales"
        )
        if self._zero_points is None:
            length = graph.op("Shape", [flat], "tokens")
            middle = ir.Tensor(np.asarray([MIDDLE], np.uint8))
            self._zero_points = graph.op(
                "ConstantOfShape", [length], "zero_points", {"value": middle}
            )
        codes = graph.op(
            "QuantizeLinear", [value, flat, self._zero_points], f"{name}_codes", {"axis": 0}
        )
        parts = [(codes, graph.constant(np.asarray(1, np.float32)))]
        if wide:
            parts.append(self._rest(value, codes, flat, name))
        if outer_scale is not None:  # it changes a row's scale, and no code
            row_scale = graph.op("Mul", [row_scale, outer_scale], f"{name}_whole_scale")
        zero_point = graph.constant(np.asarray(MIDDLE, np.uint8))

        def multiply(columns: Columns) -> Product:
            weight, scales = self._weights.codes_and_scales(layer, columns)
            products = [
                graph.op(
                    "MatMulIntegerToFloat",
                    [part, weight, step, scales, zero_point],
                    columns.short_name,
                    domain="com.microsoft",
                )
                for part, step in parts
            ]
            whole = products[0]
            if wide:
                whole = graph.op("Add", products, f"{columns.short_name}_whole")
            return Product(value=whole, row_scale=row_scale)

        return multiply

    def _rest(
        self, value: ir.Value, codes: ir.Value, scales: ir.Value, name: str
    ) -> tuple[ir.Value, ir.Value]:
        """Round what codes leave of ``[T, in]``; the codes, and a step of theirs in row scales."""
        graph = self._graph
        rounded = graph.op(
            "DequantizeLinear", [codes, scales, self._zero_points], f"{name}_rounded", {"axis": 0}
        )
        rest = graph.op("Sub", [value, rounded], f"{name}_rest")
        step = graph.constant(np.asarray(1 / FINER, np.float32))
        finer = graph.op("Mul", [scales, step], f"{name}_finer_scales")
        inputs = [rest, finer, self._zero_points]
        return graph.op("QuantizeLinear", inputs, f"{name}_rest_codes", {"axis": 0}), step

    def _row_scale(self, value: ir.Value, name: str) -> ir.Value:
        """Scale that brings each row's largest element to 127: ``[T, 1]``."""
        graph = self._graph
        last_axis = graph.constant(np.asarray([-1], np.int64))
        absolute = graph.op("Abs", [value], f"{name}_absolute")
        largest = graph.op("ReduceMax", [absolute, last_axis], f"{name}_largest", {"keepdims": 1})
        step = graph.constant(np.asarray(1 / 127, self._numpy_dtype))
        return graph.op("Mul", [largest, step], f"{name}_row_scale")

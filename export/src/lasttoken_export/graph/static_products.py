"""Products of int8 and fp8 on TensorRT: between QuantizeLinear and DequantizeLinear.

Activations have one scale for all tokens, weights a scale a column, all in the float type of the
graph. TensorRT multiplies the codes themselves, which the tests read in the plans.

Source: https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/work-quantized-types.html
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from lasttoken_export.graph.builder import GraphBuilder
from lasttoken_export.graph.linear_layer import Columns, LinearLayer
from lasttoken_export.graph.linear_weights import LinearWeights
from lasttoken_export.graph.product import Multiply, Product
from lasttoken_export.quantisation.calibration import Calibration

_ZERO_POINTS: dict[str, NDArray[Any]] = {
    "int8": np.zeros((), np.int8),
    "fp8": np.zeros((), ml_dtypes.float8_e4m3fn),
}


class StaticProducts:
    """Records the products of one graph.

    Args:
        graph: Graph under construction.
        weights: Records the weights.
        numpy_dtype: Float type of the graph in memory.
        calibration: Of int8 or fp8 on TensorRT; None where there are no such products.
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

    def multiply(self, value: ir.Value, layer: LinearLayer) -> Multiply:
        """Round inputs ``[T, in]``, to be multiplied by some columns after the others."""
        assert self._calibration is not None
        graph, name = self._graph, layer.short_name
        fixed = self._calibration.static_inputs(layer.name)
        if fixed.offset is not None:
            offset = graph.constant(fixed.offset.astype(self._numpy_dtype))
            value = graph.op("Sub", [value, offset], f"{name}_centred")
        parameters = [
            graph.constant(np.asarray(fixed.scale, self._numpy_dtype)),
            graph.constant(_ZERO_POINTS[fixed.kind]),
        ]
        codes = graph.op("QuantizeLinear", [value, *parameters], f"{name}_codes")
        rounded = graph.op("DequantizeLinear", [codes, *parameters], f"{name}_rounded")

        def multiply(columns: Columns) -> Product:
            weight = self._weights.calibrated_channels(layer, columns, fixed.kind)
            product = graph.op("MatMul", [rounded, weight], columns.short_name)
            biases = self._weights.calibrated_biases(layer, columns)
            biased = graph.op("Add", [product, biases], f"{columns.short_name}_biased")
            return Product(value=biased, has_bias=True)

        return multiply

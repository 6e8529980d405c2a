"""Records the products of a linear layer in each precision: how its inputs enter.

- Floats: MatMul.
- int8 on ONNX Runtime's CPU provider: `int8_products`. Where a row's largest element is an outlier,
  it is rotated before.
- int8 and fp8 on TensorRT: `static_products`. A layer that is too sensitive stays in floats.
- int8 and int4 weights alone: floats, by DequantizeLinear, or for int4 on ONNX Runtime's CPU
  provider by its own product.

How the weights are stored is in `linear_weights`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import onnx_ir as ir

from lasttoken_export.checkpoint import Checkpoint
from lasttoken_export.graph.builder import GraphBuilder
from lasttoken_export.graph.int8_products import Int8Products
from lasttoken_export.graph.linear_layer import Columns, LinearLayer
from lasttoken_export.graph.linear_weights import LinearWeights
from lasttoken_export.graph.product import Multiply, Product
from lasttoken_export.graph.static_products import StaticProducts
from lasttoken_export.precisions import PRECISIONS
from lasttoken_export.quantisation.calibration import Calibration
from lasttoken_export.quantisation.rotation import hadamard

_FLOAT_INPUTS = 1
"""Accuracy level of MatMulNBits in which inputs stay float32."""


class LinearLayers:
    """Records linear layers of one graph.

    Args:
        graph: Graph under construction.
        checkpoint: The weights.
        precision: One of `PRECISIONS`.
        target: One of `precisions.TARGETS`.
        dtype: Float type of the graph.
        numpy_dtype: The same in memory.
        calibration: Scales of a calibrated precision; None for the others.
    """

    def __init__(
        self,
        graph: GraphBuilder,
        checkpoint: Checkpoint,
        *,
        precision: str,
        target: str,
        dtype: ir.DataType,
        numpy_dtype: np.dtype[Any],
        calibration: Calibration | None,
    ) -> None:
        self._graph = graph
        self._precision = PRECISIONS[precision]
        self._on_cpu = target == "onnxruntime"
        self._numpy_dtype = numpy_dtype
        self._smoothing = calibration if precision in ("int8", "fp8") else None
        self._calibration = calibration
        self._weights = LinearWeights(
            graph,
            checkpoint,
            on_cpu=self._on_cpu,
            dtype=dtype,
            numpy_dtype=numpy_dtype,
            calibration=calibration,
            smoothing=self._smoothing,
        )
        self._int8 = Int8Products(
            graph, self._weights, numpy_dtype=numpy_dtype, calibration=calibration
        )
        self._static = StaticProducts(
            graph, self._weights, numpy_dtype=numpy_dtype, calibration=calibration
        )
        # Measured on the CPU, where float32 is computed: parts of a product take longer to copy
        # than products of their own. Half and TensorRT are of GPUs: nothing was measured there.
        self._separately = self._on_cpu and dtype == ir.DataType.FLOAT

    @property
    def smoothing(self) -> Calibration | None:
        """The calibration whose smoothing is folded into weights; None where none is."""
        return self._smoothing

    @property
    def lone_row_modulus(self) -> int | None:
        """Rows in a part of a product; one alone in the last part is of other bits. None for none.

        ONNX Runtime's CPU provider multiplies weights in blocks by 128 rows at a time, and one row
        by another kernel: ``StrideM`` in
        https://github.com/microsoft/onnxruntime/blob/main/onnxruntime/core/mlas/lib/qnbitgemm.cpp
        """
        kind, activations = self._precision.weights, self._precision.activations
        in_blocks = self._on_cpu and kind in ("int8", "int4") and activations == "float"
        return 128 if in_blocks else None

    def begin_rows(self) -> None:
        """Say that the values to come have other rows than those before."""
        self._int8.begin_rows()

    def multiply(
        self,
        value: ir.Value,
        layer: LinearLayer,
        *,
        row_scale: ir.Value | None = None,
        unscaled: Collection[str] = (),
    ) -> list[Product]:
        """Record the products ``[T, size]``, one of each of the layer's outputs.

        Args:
            value: ``[T, in]``.
            layer: Has no biases where an output is unscaled.
            row_scale: ``[T, 1]`` what ``value`` is still to be multiplied by; None for nothing.
            unscaled: Outputs that may come with a scale a row which is still to be applied.
        """
        graph, smoothing = self._graph, self._smoothing
        if smoothing is not None and layer.fold is None and smoothing.is_smoothed(layer.name):
            inverse = (1 / smoothing.factors(layer.name)).astype(self._numpy_dtype)
            value = graph.op(
                "Mul", [value, graph.constant(inverse)], f"{layer.short_name}_smoothed"
            )
        if smoothing is not None and not layer.rotates_upstream:
            value = self._rotate(value, layer, smoothing.rotation(layer.name))
        multiply = self._multiply(value, layer, row_scale)

        def product(columns: Columns) -> Product:
            result = multiply(columns)
            if columns.short_name in unscaled:
                assert not layer.bias, layer.name
                return result
            scaled = result.value
            if result.row_scale is not None:
                name = f"{columns.short_name}_rescaled"
                scaled = graph.op("Mul", [scaled, result.row_scale], name)
            if layer.bias and not result.has_bias:
                biases = self._weights.biases(layer, columns)
                scaled = graph.op("Add", [scaled, biases], f"{columns.short_name}_biased")
            return Product(value=scaled)

        outputs = layer.columns
        if self._separately or len(outputs) == 1:
            return [product(columns) for columns in outputs]
        whole = product(layer.all_columns).value
        sizes, names = [o.size for o in outputs], [o.short_name for o in outputs]
        return [Product(value=part) for part in graph.split(whole, sizes, names)]

    def _multiply(
        self, value: ir.Value, layer: LinearLayer, row_scale: ir.Value | None
    ) -> Multiply:
        weights, smoothing = self._weights, self._smoothing
        kind, activations = self._precision.weights, self._precision.activations
        if kind == "int4" and self._on_cpu:
            return self._by_int4_blocks(value, layer, row_scale)
        if kind == "int4":
            return self._by_weights(
                value, row_scale, lambda columns: weights.int4_blocks(layer, columns)
            )
        if kind == "int8" and activations == "float":
            return self._by_weights(
                value, row_scale, lambda columns: weights.int8_blocks(layer, columns)
            )
        if self._precision.is_float or (
            smoothing is not None and smoothing.needs_floats(layer.name)
        ):
            return self._by_weights(
                value, row_scale, lambda columns: weights.floats(layer, columns)
            )
        if self._on_cpu:
            return self._int8.multiply(value, layer, row_scale)
        assert row_scale is None, layer.name
        return self._static.multiply(value, layer)

    def _by_weights(
        self,
        value: ir.Value,
        row_scale: ir.Value | None,
        weight: Callable[[Columns], ir.Value],
    ) -> Multiply:
        def multiply(columns: Columns) -> Product:
            product = self._graph.op("MatMul", [value, weight(columns)], columns.short_name)
            return Product(value=product, row_scale=row_scale)

        return multiply

    def _by_int4_blocks(
        self, value: ir.Value, layer: LinearLayer, row_scale: ir.Value | None
    ) -> Multiply:
        """Multiply floats by int4: from a DequantizeLinear ONNX Runtime would round them to int8.

        Source: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
        """

        def multiply(columns: Columns) -> Product:
            codes, scales, block = self._weights.packed_int4_blocks(layer, columns)
            product = self._graph.op(
                "MatMulNBits",
                [value, codes, scales],
                columns.short_name,
                {
                    "K": layer.in_features,
                    "N": columns.size,
                    "bits": 4,
                    "block_size": block,
                    "accuracy_level": _FLOAT_INPUTS,
                },
                domain="com.microsoft",
            )
            return Product(value=product, row_scale=row_scale)

        return multiply

    def _rotate(self, value: ir.Value, layer: LinearLayer, block: int | None) -> ir.Value:
        """Rotate the rows of ``[T, in]`` in blocks."""
        if block is None:
            return value
        graph, name = self._graph, layer.short_name
        shape = graph.constant(np.asarray([-1, block], np.int64))
        blocks = graph.op("Reshape", [value, shape], f"{name}_blocks")
        matrix = graph.constant(hadamard(block).astype(self._numpy_dtype))
        rotated = graph.op("MatMul", [blocks, matrix], f"{name}_rotated_blocks")
        whole = graph.constant(np.asarray([-1, layer.in_features], np.int64))
        return graph.op("Reshape", [rotated, whole], f"{name}_rotated")

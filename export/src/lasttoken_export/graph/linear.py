"""Records the product of a linear layer in each precision: the one place that knows quantisation.

- Floats: MatMul.
- int8 on ONNX Runtime's CPU provider: uint8 activations with zero point 128, for which the CPU has
  instructions, and a scale a row, so that no row depends on what else is in the batch. Where a
  row's largest element is an outlier, it is rotated before.
- int8 and fp8 on TensorRT: QuantizeLinear and DequantizeLinear, static scales, in the float type of
  the graph; a layer that is too sensitive for it stays in floats.
- int8 and int4 weights: DequantizeLinear, in blocks where the runtime knows them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from lasttoken_export.checkpoint import Checkpoint
from lasttoken_export.errors import UnsupportedModel
from lasttoken_export.graph.builder import GraphBuilder
from lasttoken_export.graph.linear_layer import LinearLayer
from lasttoken_export.precisions import PRECISIONS
from lasttoken_export.quantisation import weights as rounding
from lasttoken_export.quantisation.calibration import Calibration
from lasttoken_export.quantisation.rotation import hadamard

_SMALLEST_ROW = 1e-9
"""Range of a row of activations that is all zero, which could not be divided by its own."""
_ZERO_POINT = 128
"""Of activations: the CPU multiplies unsigned by signed bytes."""


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
        self._checkpoint = checkpoint
        self._precision = PRECISIONS[precision]
        self._on_cpu = target == "onnxruntime"
        self._dtype, self._numpy_dtype = dtype, numpy_dtype
        self._smoothing = calibration if precision in ("int8", "fp8") else None
        self._calibration = calibration
        self._zero_points: ir.Value | None = None

    @property
    def smoothing(self) -> Calibration | None:
        """The calibration whose smoothing is folded into weights; None where none is."""
        return self._smoothing

    def multiply(self, value: ir.Value, layer: LinearLayer) -> ir.Value:
        """Record the product ``[T, out]`` of ``value [T, in]``, without biases."""
        smoothing = self._smoothing
        if smoothing is not None and layer.fold is None and smoothing.is_smoothed(layer.name):
            inverse = (1 / smoothing.factors(layer.name)).astype(self._numpy_dtype)
            value = self._graph.op(
                "Mul", [value, self._graph.constant(inverse)], f"{layer.short_name}_smoothed"
            )
        if smoothing is not None and not layer.rotates_upstream:
            value = self._rotate(value, layer, smoothing.rotation(layer.name))
        weights, activations = self._precision.weights, self._precision.activations
        if weights == "int4":
            weight = self._int4_weight(layer)
        elif weights == "int8" and activations == "float":
            weight = self._int8_only_weight(layer)
        elif self._precision.is_float or (
            weights == "int8" and smoothing is not None and smoothing.needs_floats(layer.name)
        ):
            weight = self._float_weight(layer)
        else:
            return self._quantised_product(value, layer)
        return self._graph.op("MatMul", [value, weight], layer.short_name)

    def _quantised_product(self, value: ir.Value, layer: LinearLayer) -> ir.Value:
        graph, name = self._graph, layer.short_name
        calibration = self._calibration
        assert calibration is not None
        if self._on_cpu:
            return self._product_of_rows(value, layer, calibration)
        if self._precision.weights == "fp8":
            weight = self._channel_weight(layer, "fp8")
            zero_point: NDArray[Any] = np.zeros((), ml_dtypes.float8_e4m3fn)
            scale = calibration.fp8_scale(layer.name)
        else:
            weight = self._channel_weight(layer, "int8")
            zero_point = np.asarray(0, np.int8)
            scale = calibration.int8_scale(layer.name)
        parameters = [
            graph.constant(np.asarray(scale, self._numpy_dtype)),
            graph.constant(zero_point),
        ]
        codes = graph.op("QuantizeLinear", [value, *parameters], f"{name}_codes")
        rounded = graph.op("DequantizeLinear", [codes, *parameters], f"{name}_rounded")
        return graph.op("MatMul", [rounded, weight], name)

    def _product_of_rows(
        self, value: ir.Value, layer: LinearLayer, calibration: Calibration
    ) -> ir.Value:
        """Multiply rows of int8, each with a scale of its own.

        ONNX has the product of integers and the scaling of its result as two operators; ONNX
        Runtime's own one does both in one pass.

        Source: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
        """
        graph, name = self._graph, layer.short_name
        row_scale = self._row_scale(value, name)
        flat = graph.op(
            "Squeeze", [row_scale, graph.constant(np.asarray([1], np.int64))], f"{name}_scales"
        )
        if self._zero_points is None:
            length = graph.op("Shape", [flat], "tokens")
            middle = ir.Tensor(np.asarray([_ZERO_POINT], np.uint8))
            self._zero_points = graph.op(
                "ConstantOfShape", [length], "zero_points", {"value": middle}
            )
        codes = graph.op(
            "QuantizeLinear", [value, flat, self._zero_points], f"{name}_codes", {"axis": 0}
        )
        shape = (layer.in_features, layer.out_features)
        weight = graph.weight(
            f"{layer.name}.weight", shape, ir.DataType.INT8,
            lambda: calibration.int8_codes(layer.name),
        )  # fmt: skip
        scale = graph.weight(
            f"{layer.name}.scale", (layer.out_features,), self._dtype,
            lambda: calibration.int8_weight_scales(layer.name),
        )  # fmt: skip
        one = graph.constant(np.asarray(1, np.float32))
        zero_point = graph.constant(np.asarray(_ZERO_POINT, np.uint8))
        product = graph.op(
            "MatMulIntegerToFloat",
            [codes, weight, one, scale, zero_point],
            name,
            domain="com.microsoft",
        )
        return graph.op("Mul", [product, row_scale], f"{name}_rescaled")

    def _row_scale(self, value: ir.Value, name: str) -> ir.Value:
        """Scale that brings each row's largest element to 127: ``[T, 1]``."""
        graph = self._graph
        last_axis = graph.constant(np.asarray([-1], np.int64))
        absolute = graph.op("Abs", [value], f"{name}_absolute")
        largest = graph.op("ReduceMax", [absolute, last_axis], f"{name}_largest", {"keepdims": 1})
        floor = graph.constant(np.asarray(_SMALLEST_ROW, self._numpy_dtype))
        largest = graph.op("Max", [largest, floor], f"{name}_row_range")
        step = graph.constant(np.asarray(1 / 127, self._numpy_dtype))
        return graph.op("Mul", [largest, step], f"{name}_row_scale")

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

    def _float_weight(self, layer: LinearLayer) -> ir.Value:
        return self._graph.weight(
            f"{layer.name}.weight",
            (layer.in_features, layer.out_features),
            self._dtype,
            lambda: layer.read_weight(self._checkpoint, self._numpy_dtype, self._smoothing),
        )

    def _read(self, layer: LinearLayer) -> NDArray[np.float32]:
        return layer.read_weight(self._checkpoint, np.dtype(np.float32), self._smoothing)

    def _channel_weight(self, layer: LinearLayer, kind: str) -> ir.Value:
        """Weights in int8 or fp8 with a scale an output channel."""
        scales_of, to_codes, dtype = {
            "int8": (rounding.int8_channel_scales, rounding.to_int8, ir.DataType.INT8),
            "fp8": (rounding.fp8_channel_scales, rounding.to_fp8, ir.DataType.FLOAT8E4M3FN),
        }[kind]

        def codes() -> NDArray[Any]:
            weight = self._read(layer)
            return to_codes(weight, self._stored(scales_of(weight)))

        return self._dequantised(
            layer, dtype, codes, (layer.out_features,), lambda: scales_of(self._read(layer)),
            {"axis": 1},
        )  # fmt: skip

    def _int8_only_weight(self, layer: LinearLayer) -> ir.Value:
        block = rounding.block_size(layer.in_features) if self._on_cpu else None
        if block is None:
            return self._channel_weight(layer, "int8")

        def codes() -> NDArray[Any]:
            weight = self._read(layer)
            return rounding.to_int8_blocks(weight, rounding.int8_block_scales(weight, block))

        return self._dequantised(
            layer, ir.DataType.INT8, codes, (layer.in_features // block, layer.out_features),
            lambda: rounding.int8_block_scales(self._read(layer), block),
            {"axis": 0, "block_size": block},
        )  # fmt: skip

    def _int4_weight(self, layer: LinearLayer) -> ir.Value:
        block = rounding.block_size(layer.in_features)
        if block is None:
            raise UnsupportedModel(
                f"{layer.name} has {layer.in_features} inputs, which no block of 16 or 32 "
                "divides: int4 needs that; choose int8"
            )
        calibration = self._calibration
        assert calibration is not None
        return self._dequantised(
            layer,
            ir.DataType.INT4,
            lambda: calibration.int4_codes(layer.name).astype(ml_dtypes.int4),
            (layer.in_features // block, layer.out_features),
            lambda: calibration.int4_scales(layer.name),
            {"axis": 0, "block_size": block},
        )

    def _dequantised(
        self,
        layer: LinearLayer,
        dtype: ir.DataType,
        codes: Callable[[], NDArray[Any]],
        scales_shape: tuple[int, ...],
        scales: Callable[[], NDArray[np.float32]],
        attributes: dict[str, Any],
    ) -> ir.Value:
        graph = self._graph
        shape = (layer.in_features, layer.out_features)
        stored = graph.weight(f"{layer.name}.weight", shape, dtype, codes)
        if dtype == ir.DataType.INT4 and self._on_cpu:
            # Folded when the graph is loaded. The runtime's int4 kernel groups rows, and so gives
            # a text other last bits in other company; its kernel of int8 does not.
            name = f"{layer.short_name}_codes_int8"
            stored = graph.op("Cast", [stored], name, {"to": ir.DataType.INT8})
        name = f"{layer.name}.scale"
        if "block_size" in attributes and self._on_cpu:
            # Stored in half, and widened when the graph is loaded: blocks have many scales.
            halves = graph.weight(
                name, scales_shape, ir.DataType.FLOAT16, lambda: scales().astype(np.float16)
            )
            scale = graph.op("Cast", [halves], f"{layer.short_name}_scale", {"to": self._dtype})
        else:
            scale = graph.weight(
                name, scales_shape, self._dtype, lambda: scales().astype(self._numpy_dtype)
            )
        return graph.op(
            "DequantizeLinear", [stored, scale], f"{layer.short_name}_weight", attributes
        )

    def _stored(self, scales: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return scales as the graph's float type holds them, so that codes fit them."""
        return scales.astype(self._numpy_dtype).astype(np.float32)

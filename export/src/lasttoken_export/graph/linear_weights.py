"""Weights of linear layers as a graph stores them, in each precision."""

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
from lasttoken_export.graph.linear_layer import Columns, LinearLayer
from lasttoken_export.quantisation import weights as rounding
from lasttoken_export.quantisation.calibration import Calibration


class LinearWeights:
    """Records the weights of some output columns of linear layers: ``[in, columns]``.

    Args:
        graph: Graph under construction.
        checkpoint: The weights.
        on_cpu: Whether ONNX Runtime's kernels for blocks read them.
        dtype: Float type of the graph.
        numpy_dtype: The same in memory.
        calibration: Scales of a calibrated precision; None for the others.
        smoothing: The same where its smoothing is folded into weights; None where none is.
    """

    def __init__(
        self,
        graph: GraphBuilder,
        checkpoint: Checkpoint,
        *,
        on_cpu: bool,
        dtype: ir.DataType,
        numpy_dtype: np.dtype[Any],
        calibration: Calibration | None,
        smoothing: Calibration | None,
    ) -> None:
        self._graph, self._checkpoint, self._on_cpu = graph, checkpoint, on_cpu
        self._dtype, self._numpy_dtype = dtype, numpy_dtype
        self._calibration, self._smoothing = calibration, smoothing

    def floats(self, layer: LinearLayer, columns: Columns) -> ir.Value:
        """In the graph's float type."""
        return self._graph.weight(
            f"{columns.name}.weight",
            (layer.in_features, columns.size),
            self._dtype,
            lambda: self._read(layer, columns, self._numpy_dtype),
        )

    def codes_and_scales(self, layer: LinearLayer, columns: Columns) -> tuple[ir.Value, ir.Value]:
        """In int8 as calibrated, with a scale a column."""
        calibration = self._calibration
        assert calibration is not None
        codes = self._graph.weight(
            f"{columns.name}.weight", (layer.in_features, columns.size), ir.DataType.INT8,
            lambda: calibration.channel_codes(layer.name)[:, columns.as_slice],
        )  # fmt: skip
        scales = self._graph.weight(
            f"{columns.name}.scale", (columns.size,), self._dtype,
            lambda: calibration.channel_scales(layer.name)[columns.as_slice],
        )  # fmt: skip
        return codes, scales

    def calibrated_channels(self, layer: LinearLayer, columns: Columns, kind: str) -> ir.Value:
        """In int8 or fp8 as calibrated, with a scale a column."""
        calibration = self._calibration
        assert calibration is not None
        dtype = {"int8": ir.DataType.INT8, "fp8": ir.DataType.FLOAT8E4M3FN}[kind]
        return self._dequantised(
            layer, columns, dtype,
            lambda: calibration.channel_codes(layer.name)[:, columns.as_slice], (columns.size,),
            lambda: calibration.channel_scales(layer.name)[columns.as_slice], {"axis": 1},
        )  # fmt: skip

    def int8_channels(self, layer: LinearLayer, columns: Columns) -> ir.Value:
        """In int8, rounded to nearest, with a scale a column."""

        def codes() -> NDArray[Any]:
            weight = self._read(layer, columns)
            return rounding.to_int8(weight, self._stored(rounding.int8_channel_scales(weight)))

        return self._dequantised(
            layer, columns, ir.DataType.INT8, codes, (columns.size,),
            lambda: rounding.int8_channel_scales(self._read(layer, columns)), {"axis": 1},
        )  # fmt: skip

    def int8_blocks(self, layer: LinearLayer, columns: Columns) -> ir.Value:
        """In int8, with a scale a block of inputs on the CPU and a scale a column elsewhere."""
        block = rounding.block_size(layer.in_features) if self._on_cpu else None
        if block is None:
            return self.int8_channels(layer, columns)

        def codes() -> NDArray[Any]:
            weight = self._read(layer, columns)
            return rounding.to_int8_blocks(weight, rounding.int8_block_scales(weight, block))

        return self._dequantised(
            layer, columns, ir.DataType.INT8, codes, (layer.in_features // block, columns.size),
            lambda: rounding.int8_block_scales(self._read(layer, columns), block),
            {"axis": 0, "block_size": block},
        )  # fmt: skip

    def int4_blocks(self, layer: LinearLayer, columns: Columns) -> ir.Value:
        """In int4 as calibrated, with a scale a block of inputs."""
        calibration, block = self._int4(layer)
        return self._dequantised(
            layer,
            columns,
            ir.DataType.INT4,
            lambda: calibration.int4_codes(layer.name)[:, columns.as_slice].astype(ml_dtypes.int4),
            (layer.in_features // block, columns.size),
            lambda: calibration.int4_scales(layer.name)[:, columns.as_slice],
            {"axis": 0, "block_size": block},
        )

    def packed_int4_blocks(
        self, layer: LinearLayer, columns: Columns
    ) -> tuple[ir.Value, ir.Value, int]:
        """The same as ONNX Runtime's MatMulNBits takes it: codes, scales and the block."""
        calibration, block = self._int4(layer)
        blocks = layer.in_features // block
        codes = self._graph.weight(
            f"{columns.name}.weight", (columns.size, blocks, block // 2), ir.DataType.UINT8,
            lambda: rounding.pack_by_columns(
                calibration.int4_codes(layer.name)[:, columns.as_slice], block
            ),
        )  # fmt: skip
        scales = self._half_scales(
            columns,
            (columns.size, blocks),
            lambda: calibration.int4_scales(layer.name)[:, columns.as_slice].T,
        )
        return codes, scales, block

    def biases(self, layer: LinearLayer, columns: Columns) -> ir.Value:
        """In the graph's float type: ``[columns]``."""
        return self._graph.weight(
            f"{columns.name}.bias",
            (columns.size,),
            self._dtype,
            lambda: layer.read_bias(self._checkpoint, self._numpy_dtype, self._smoothing)[
                columns.as_slice
            ],
        )

    def calibrated_biases(self, layer: LinearLayer, columns: Columns) -> ir.Value:
        """What one scale for all inputs adds to the products, biases included."""
        calibration = self._calibration
        assert calibration is not None

        def read() -> NDArray[Any]:
            biases = calibration.channel_bias(layer.name)
            if layer.bias:
                biases = biases + layer.read_bias(
                    self._checkpoint, np.dtype(np.float32), self._smoothing
                )
            return biases[columns.as_slice].astype(self._numpy_dtype)

        return self._graph.weight(f"{columns.name}.bias", (columns.size,), self._dtype, read)

    def _read(
        self, layer: LinearLayer, columns: Columns, dtype: np.dtype[Any] | None = None
    ) -> NDArray[Any]:
        dtype = dtype or np.dtype(np.float32)
        return layer.read_weight(self._checkpoint, dtype, self._smoothing, columns.as_slice)

    def _dequantised(
        self,
        layer: LinearLayer,
        columns: Columns,
        dtype: ir.DataType,
        codes: Callable[[], NDArray[Any]],
        scales_shape: tuple[int, ...],
        scales: Callable[[], NDArray[np.float32]],
        attributes: dict[str, Any],
    ) -> ir.Value:
        graph = self._graph
        shape = (layer.in_features, columns.size)
        stored = graph.weight(f"{columns.name}.weight", shape, dtype, codes)
        name = f"{columns.name}.scale"
        if "block_size" in attributes and self._on_cpu:
            scale = self._half_scales(columns, scales_shape, scales)
        else:
            scale = graph.weight(
                name, scales_shape, self._dtype, lambda: scales().astype(self._numpy_dtype)
            )
        return graph.op(
            "DequantizeLinear", [stored, scale], f"{columns.short_name}_weight", attributes
        )

    def _half_scales(
        self, columns: Columns, shape: tuple[int, ...], scales: Callable[[], NDArray[np.float32]]
    ) -> ir.Value:
        """Stored in half, and widened when the graph is loaded: blocks have many scales."""
        halves = self._graph.weight(
            f"{columns.name}.scale",
            shape,
            ir.DataType.FLOAT16,
            lambda: scales().astype(np.float16),
        )
        name = f"{columns.short_name}_scale"
        return self._graph.op("Cast", [halves], name, {"to": self._dtype})

    def _int4(self, layer: LinearLayer) -> tuple[Calibration, int]:
        block = rounding.block_size(layer.in_features)
        if block is None:
            raise UnsupportedModel(
                f"{layer.name} has {layer.in_features} inputs, which no block of 16 or 32 "
                "divides: int4 needs that; choose int8"
            )
        assert self._calibration is not None
        return self._calibration, block

    def _stored(self, scales: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return scales as the graph's float type holds them, so that codes fit them."""
        return scales.astype(self._numpy_dtype).astype(np.float32)

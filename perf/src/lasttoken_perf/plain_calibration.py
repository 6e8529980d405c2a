"""Scales without calibration, for measurements that scales do not change: sizes and build times."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from lasttoken_export.decoder_config import DecoderConfig
from lasttoken_export.precisions import PRECISIONS
from lasttoken_export.quantisation.calibration import Calibration
from lasttoken_export.quantisation.static_inputs import StaticInputs
from lasttoken_export.quantisation.weights import block_size


class PlainCalibration(Calibration):
    """No smoothing, one scale for all inputs, random codes: never for vectors.

    Args:
        config: Shape of the decoder.
        precision: Of the graph.
    """

    def __init__(self, config: DecoderConfig, precision: str) -> None:
        self._kind = PRECISIONS[precision].weights
        queries = config.num_heads * config.head_dim
        keys = config.num_kv_heads * config.head_dim
        self._shapes = {
            "qkv_proj": (config.hidden_size, queries + 2 * keys),
            "o_proj": (queries, config.hidden_size),
            "gate_up_proj": (config.hidden_size, 2 * config.intermediate_size),
            "down_proj": (config.intermediate_size, config.hidden_size),
        }
        self._random = np.random.default_rng(0)

    def _shape(self, linear: str) -> tuple[int, int]:
        return self._shapes[linear.rpartition(".")[2]]

    def factors(self, linear: str) -> NDArray[np.float32]:
        """Return ones."""
        return np.ones(self._shape(linear)[0], np.float32)

    def rotation(self, linear: str) -> int | None:
        """Return a block where most have one: int8 before ``down_proj``."""
        return 32 if self._kind == "int8" and linear.endswith("down_proj") else None

    def static_inputs(self, linear: str) -> StaticInputs:
        """Return a scale of the usual size, and an offset behind a norm, where most have one."""
        offset = None
        if linear.endswith(("qkv_proj", "gate_up_proj")):
            offset = self._random.uniform(-0.1, 0.1, self._shape(linear)[0]).astype(np.float32)
        return StaticInputs(kind=self._kind, scale=0.02, offset=offset)

    def channel_codes(self, linear: str) -> NDArray[Any]:
        """Return random codes."""
        codes = self._random.integers(-127, 128, self._shape(linear), dtype=np.int8)
        return codes if self._kind == "int8" else codes.astype(ml_dtypes.float8_e4m3fn)

    def channel_scales(self, linear: str) -> NDArray[np.float32]:
        """Return a scale a column; random, since TensorRT keeps equal constants once."""
        return self._random.uniform(1e-4, 2e-4, self._shape(linear)[1]).astype(np.float32)

    def channel_bias(self, linear: str) -> NDArray[np.float32]:
        """Return random biases."""
        return self._random.uniform(-0.1, 0.1, self._shape(linear)[1]).astype(np.float32)

    def needs_floats(self, linear: str) -> bool:  # noqa: ARG002 - alike for all
        """No layer does."""
        return False

    def int4_codes(self, linear: str) -> NDArray[np.int8]:
        """Return random codes."""
        return self._random.integers(-8, 8, self._shape(linear), dtype=np.int8)

    def int4_scales(self, linear: str) -> NDArray[np.float32]:
        """Return a scale a block; random, since TensorRT keeps equal constants once."""
        in_features, out_features = self._shape(linear)
        block = block_size(in_features)
        assert block is not None
        scales = self._random.uniform(0.005, 0.01, (in_features // block, out_features))
        return scales.astype(np.float32)

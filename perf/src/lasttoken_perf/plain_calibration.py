"""Scales without calibration, for measurements that scales do not change: sizes and build times."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lasttoken_export.decoder_config import DecoderConfig
from lasttoken_export.quantisation.calibration import Calibration
from lasttoken_export.quantisation.weights import block_size


class PlainCalibration(Calibration):
    """No smoothing, one scale for all inputs, random codes in int4: never for vectors.

    Args:
        config: Shape of the decoder.
    """

    def __init__(self, config: DecoderConfig) -> None:
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

    def rotation(self, linear: str) -> int | None:  # noqa: ARG002 - alike for all
        """Return None."""
        return None

    def int8_scale(self, linear: str) -> float:  # noqa: ARG002 - alike for all
        """Return a scale of the usual size."""
        return 0.05

    def fp8_scale(self, linear: str) -> float:  # noqa: ARG002 - alike for all
        """Return a scale of the usual size."""
        return 0.01

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

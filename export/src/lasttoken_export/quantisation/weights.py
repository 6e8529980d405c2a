"""Rounding of a linear layer's weights ``[in, out]`` to few bits, symmetric around zero."""

from __future__ import annotations

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

FP8_LARGEST = 448.0
"""Largest finite value of float8 E4M3. Source: https://arxiv.org/abs/2209.05433, table 1."""
_SMALLEST_SCALE = 1e-6
"""Of a channel that is all zero; a smaller one would round to zero in half precision."""
_BLOCK_SIZES = (32, 16)
_FOUR_BIT_RANGES = np.linspace(0.7, 1.05, 8, dtype=np.float32)


def block_size(in_features: int) -> int | None:
    """Return how many inputs share a scale: the largest known size that divides them, or None."""
    return next((size for size in _BLOCK_SIZES if in_features % size == 0), None)


def int8_channel_scales(weight: Floats) -> Floats:
    """Return one scale an output channel ``[out]``."""
    scales: Floats = np.maximum(np.abs(weight).max(axis=0) / 127, _SMALLEST_SCALE)
    return scales.astype(np.float32)


def to_int8(values: Floats, scales: Floats) -> NDArray[np.int8]:
    """Round to int8 at scales that broadcast."""
    codes: NDArray[np.int8] = np.clip(np.rint(values / scales), -127, 127).astype(np.int8)
    return codes


def int8_block_scales(weight: Floats, block: int) -> Floats:
    """Return one scale a block of inputs and output channel: ``[in / block, out]``."""
    blocks = np.abs(weight).reshape(-1, block, weight.shape[1])
    scales: Floats = np.maximum(blocks.max(axis=1) / 127, _SMALLEST_SCALE)
    return in_half_precision(scales)


def to_int8_blocks(weight: Floats, scales: Floats) -> NDArray[np.int8]:
    """Round to int8 at the scales of `int8_block_scales`."""
    return to_int8(weight, np.repeat(scales, weight.shape[0] // scales.shape[0], axis=0))


def int4_block_scales(weight: Floats, block: int) -> Floats:
    """Return the scales ``[in / block, out]`` of least squared error, codes from -8 to 7."""
    blocks = weight.reshape(-1, block, weight.shape[1])
    widest = np.maximum(np.abs(blocks).max(axis=1) / 7, _SMALLEST_SCALE)  # [in / block, out]
    best: Floats = widest.astype(np.float32)
    least = np.full(widest.shape, np.inf, np.float32)
    for shrink in _FOUR_BIT_RANGES:
        scales = widest * shrink
        wide = scales[:, None, :]
        error = np.square(np.clip(np.rint(blocks / wide), -8, 7) * wide - blocks).sum(axis=1)
        better = error < least
        best[better], least[better] = scales[better], error[better]
    return in_half_precision(best)


def pack_by_columns(codes: NDArray[np.int8], block: int) -> NDArray[np.uint8]:
    """Pack codes ``[in, out]`` from -8 to 7 for ONNX Runtime's MatMulNBits.

    Returns:
        ``[out, in / block, block / 2]``, 8 added, the first of two in the lower half of a byte.

    Source: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
    """
    unsigned = (codes.T + 8).astype(np.uint8).reshape(codes.shape[1], -1, block)
    packed: NDArray[np.uint8] = unsigned[..., 0::2] | (unsigned[..., 1::2] << np.uint8(4))
    return packed


def in_half_precision(scales: Floats) -> Floats:
    """Return scales as float16 holds them, which is how blocks' scales are stored."""
    return scales.astype(np.float16).astype(np.float32)


def fp8_channel_scales(weight: Floats) -> Floats:
    """Return one scale an output channel ``[out]``."""
    largest = np.abs(weight).max(axis=0) / FP8_LARGEST
    scales: Floats = np.maximum(largest, _SMALLEST_SCALE)
    return scales.astype(np.float32)


def to_fp8(values: Floats, scales: Floats) -> NDArray[ml_dtypes.float8_e4m3fn]:
    """Round to float8 E4M3 at scales that broadcast."""
    limited = np.clip(values / scales, -FP8_LARGEST, FP8_LARGEST)
    codes: NDArray[ml_dtypes.float8_e4m3fn] = limited.astype(ml_dtypes.float8_e4m3fn)
    return codes

"""GPTQ: inputs are rounded one after the other, each one's error corrected in those to come.

Source: GPTQ, https://arxiv.org/abs/2210.17323, algorithm 1; the order by the inputs' size, with
scales fixed beforehand, is that of https://github.com/IST-DASLab/gptq (``act-order``,
``static-groups``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack

from lasttoken_export.quantisation.gram import FloatMatrix, reorder
from lasttoken_export.quantisation.weights import (
    Floats,
    fp8_channel_scales,
    in_half_precision,
    int4_block_scales,
    int8_channel_scales,
    to_fp8,
    to_int8,
)

_DAMPING = 0.01
"""Added to the diagonal, relative to its mean: inputs that hardly vary stay invertible."""
_BATCH = 64


def gptq_int4(weight: Floats, gram: FloatMatrix, block: int) -> tuple[NDArray[np.int8], Floats]:
    """Round a linear layer's weights to int4 so that its output changes least.

    Args:
        weight: ``[in, out]``.
        gram: ``[in, in]`` sum over calibration tokens of the inputs' outer products, which is
            overwritten.
        block: Inputs that share a scale.

    Returns:
        Codes ``[in, out]`` from -8 to 7 and scales ``[in / block, out]``.
    """
    scales = int4_block_scales(weight, block)
    return _round(weight, gram, scales, _to_int4), scales


def gptq_int8(
    weight: Floats, gram: FloatMatrix, scales: Floats | None = None
) -> tuple[NDArray[np.int8], Floats]:
    """Round a linear layer's weights to int8 so that its output changes least.

    Args:
        weight: ``[in, out]``.
        gram: ``[in, in]`` sum over calibration tokens of the inputs' outer products, which is
            overwritten.
        scales: ``[out]``; None for those of `int8_channel_scales`.

    Returns:
        Codes ``[in, out]`` from -127 to 127 and scales ``[out]``.
    """
    scales = int8_channel_scales(weight) if scales is None else scales
    return _round(weight, gram, scales[None], to_int8), scales


def gptq_fp8(weight: Floats, gram: FloatMatrix) -> tuple[NDArray[ml_dtypes.float8_e4m3fn], Floats]:
    """Round a linear layer's weights to float8 E4M3 so that its output changes least.

    Args:
        weight: ``[in, out]``.
        gram: ``[in, in]`` sum over calibration tokens of the inputs' outer products, which is
            overwritten.

    Returns:
        Codes ``[in, out]`` and scales ``[out]``, which float16 holds.
    """
    scales = in_half_precision(fp8_channel_scales(weight))
    return _round(weight, gram, scales[None], to_fp8), scales


def _to_int4(values: Floats, scales: Floats) -> NDArray[np.int8]:
    codes: NDArray[np.int8] = np.clip(np.rint(values / scales), -8, 7).astype(np.int8)
    return codes


def _round(
    weight: Floats,
    gram: FloatMatrix,
    scales: Floats,
    to_codes: Callable[[Floats, Floats], NDArray[Any]],
) -> NDArray[Any]:
    """Return codes ``[in, out]`` at scales ``[blocks of inputs, out]``."""
    order = np.argsort(-np.diag(gram), kind="stable")
    block = len(weight) // len(scales)
    root = _inverse_root(np.ascontiguousarray(gram, np.float64), order)
    left = weight[order].astype(np.float32, copy=False)
    codes = np.empty(left.shape, to_codes(left[:0], scales[0]).dtype)
    for start in range(0, len(left), _BATCH):
        stop = min(start + _BATCH, len(left))
        inverse = root[start:stop, start:].astype(np.float32)
        errors = np.empty((stop - start, left.shape[1]), np.float32)
        for row in range(start, stop):
            here = row - start
            scale = scales[order[row] // block]
            code = to_codes(left[row], scale)
            error = (left[row] - code.astype(np.float32) * scale) / inverse[here, here]
            left[row + 1 : stop] -= np.outer(inverse[here, here + 1 : stop - start], error)
            codes[order[row]], errors[here] = code, error
        left[stop:] -= inverse[:, stop - start :].T @ errors
    return codes


def _inverse_root(gram: FloatMatrix, order: NDArray[np.int64]) -> FloatMatrix:
    """Return the upper Cholesky factor of the damped Gram matrix's inverse, inputs in an order.

    With inputs in the opposite order it is the lower factor's inverse, turned around. All is done
    in the Gram matrix's own place.
    """
    reorder(gram, order[::-1])
    root = gram.T  # the same, being symmetric, in LAPACK's order
    diagonal = np.diag_indices(len(root))
    root[diagonal] += _DAMPING * max(float(root[diagonal].mean()), 1e-6)
    root, failed = lapack.dpotrf(root, lower=1, overwrite_a=1)
    if not failed:
        root, failed = lapack.dtrtri(root, lower=1, overwrite_c=1)
    if failed:
        raise np.linalg.LinAlgError(f"the Gram matrix cannot be inverted (LAPACK: {failed})")
    result: FloatMatrix = root[::-1, ::-1]
    return result

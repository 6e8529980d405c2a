"""Vectors in fewer bits, bit for bit as `sentence_transformers.quantize_embeddings` makes them.

Source: https://sbert.net/docs/package_reference/util.html
(sentence_transformers.util.quantize_embeddings, version 6.2).
"""

from __future__ import annotations

import logging
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from lasttoken.errors import InvalidInput

OutputDtype = Literal["float32", "float16", "int8", "uint8", "binary", "ubinary"]
OUTPUT_DTYPES: tuple[str, ...] = get_args(OutputDtype)

_STABLE_ROWS = 100

_logger = logging.getLogger("lasttoken")


def quantize(
    vectors: npt.NDArray[np.float32],
    output_dtype: OutputDtype,
    ranges: npt.NDArray[np.floating[Any]] | None = None,
) -> npt.NDArray[Any]:
    """Bring vectors into another type.

    Args:
        vectors: `[n, D]` or `[D]` float32.
        output_dtype: `"float32"`; `"float16"`; `"int8"` and `"uint8"`: 256 steps of equal size
            between each dimension's smallest and largest value; `"binary"` (int8) and `"ubinary"`
            (uint8): a bit a dimension, set where it is above 0, eight to a byte, the first in the
            highest bit.
        ranges: `[2, D]`, the smallest and largest value of each dimension for int8 and uint8;
            None takes them from `vectors`.

    Returns:
        `[n, D]` or `[D]`; for binary and ubinary `[n, ceil(D / 8)]` or `[ceil(D / 8)]`.

    Raises:
        InvalidInput: `ranges` would have to come from a single vector.
    """
    if output_dtype == "float32":
        return vectors
    if output_dtype == "float16":
        return vectors.astype(np.float16)
    if output_dtype in ("binary", "ubinary"):
        packed: npt.NDArray[np.uint8] = np.packbits(vectors > 0, axis=-1)
        return packed if output_dtype == "ubinary" else (packed ^ 0x80).view(np.int8)
    if vectors.ndim == 2 and not len(vectors):
        return np.zeros(vectors.shape, dtype=output_dtype)
    starts, ends = _ranges_of(vectors, output_dtype) if ranges is None else ranges.astype("f4")
    steps = (ends - starts) / 255
    steps = np.where(steps == 0, 1, steps)
    levels = np.clip(np.floor((vectors - starts) / steps), 0, 255)
    if output_dtype == "uint8":
        return np.asarray(levels, dtype=np.float32).astype(np.uint8)
    return np.asarray(levels - 128, dtype=np.float32).astype(np.int8)


def _ranges_of(vectors: npt.NDArray[np.float32], output_dtype: str) -> npt.NDArray[np.float32]:
    if vectors.ndim == 1 or len(vectors) == 1:
        raise InvalidInput(
            f"output_dtype is {output_dtype!r} and there is one vector only, which has no range; "
            "give ranges [2, D] taken from vectors that stand for yours"
        )
    if len(vectors) < _STABLE_ROWS:
        _logger.warning(
            "the ranges of %s come from %d vectors; give ranges [2, D] taken from more",
            output_dtype,
            len(vectors),
        )
    return np.stack((vectors.min(axis=0), vectors.max(axis=0)))

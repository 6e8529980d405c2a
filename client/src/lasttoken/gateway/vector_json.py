"""Vectors as JSON, without a Python object for each number.

orjson writes float32 arrays as they lie in memory, the shortest digits that give the same float32;
base64 is made of the bytes themselves. A large answer is made in pieces, so that the event loop can
do other things between them.
"""

from __future__ import annotations

import binascii
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

PIECE_ELEMENTS = 1 << 16
"""Elements of one piece: some milliseconds of work."""

_OPTIONS = orjson.OPT_SERIALIZE_NUMPY


def dumps(value: object) -> bytes:
    """Any value as JSON; arrays in it must be contiguous."""
    return orjson.dumps(value, option=_OPTIONS)


def base64_text(row: npt.NDArray[Any]) -> orjson.Fragment:
    """The bytes of a row in base64, as a JSON string; numbers little-endian, as OpenAI's are."""
    data = row.astype(row.dtype.newbyteorder("<"), copy=False)
    # The alphabet of base64 needs no escaping in JSON.
    encoded = binascii.b2a_base64(np.ascontiguousarray(data).data, newline=False)
    return orjson.Fragment(b'"' + encoded + b'"')


def array_pieces(
    vectors: npt.NDArray[Any],
    item: Callable[[int, npt.NDArray[Any]], object],
    *,
    before: bytes,
    after: bytes,
) -> Iterator[bytes]:
    """One JSON array with an item a vector, piece by piece.

    Args:
        vectors: `[n, D]`.
        item: Makes the item of a row from its position and its vector `[D]`.
        before: Written in front of the array's `[`, with the first piece.
        after: Written behind the array's `]`, with the last piece.
    """
    vectors = np.ascontiguousarray(vectors)
    rows = max(1, PIECE_ELEMENTS // max(1, vectors.shape[1]))
    opening = before + b"["
    for start in range(0, len(vectors), rows):
        stop = min(start + rows, len(vectors))
        items = [item(index, vectors[index]) for index in range(start, stop)]
        last = stop == len(vectors)
        yield opening + dumps(items)[1:-1] + (b"]" + after if last else b"")
        opening = b","
    if not len(vectors):
        yield opening + b"]" + after

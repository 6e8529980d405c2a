"""Arrow arrays of buffers.

`pa.array` imports pandas first where that is installed, which costs seconds and 60 MB.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import pyarrow as pa

MOST_BYTES = 2**31 - 1
"""Of a chunk of strings, whose offsets are int32."""


def number_array(kind: pa.DataType, elements: npt.NDArray[Any]) -> pa.Array:
    """Make an array of numbers without a copy.

    Args:
        kind: The numbers' type.
        elements: `[n]`, contiguous, of the NumPy type that `kind` is.
    """
    import pyarrow as pa

    return pa.Array.from_buffers(kind, len(elements), [None, pa.py_buffer(elements)])


def bool_array(elements: npt.NDArray[np.bool_]) -> pa.Array:
    """Make an array of booleans, `[n]`."""
    import pyarrow as pa

    bits = np.packbits(elements, bitorder="little")
    return pa.Array.from_buffers(pa.bool_(), len(elements), [None, pa.py_buffer(bits)])


def string_array(texts: Iterable[str], *, most_bytes: int = MOST_BYTES) -> pa.ChunkedArray:
    """Make an array of strings, in as many chunks as their offsets need.

    Args:
        texts: The strings.
        most_bytes: Most bytes of a chunk.

    Raises:
        UnicodeEncodeError: One holds half of a surrogate pair.
    """
    import pyarrow as pa

    chunks: list[pa.Array] = []
    waiting: list[bytes] = []
    size = 0
    for text in texts:
        encoded = text.encode()
        if size + len(encoded) > most_bytes:
            chunks.append(_string_chunk(waiting))
            waiting, size = [], 0
        waiting.append(encoded)
        size += len(encoded)
    chunks.append(_string_chunk(waiting))
    return pa.chunked_array(chunks, pa.string())


def _string_chunk(encoded: Sequence[bytes]) -> pa.Array:
    import pyarrow as pa

    offsets = np.cumsum([0, *map(len, encoded)], dtype=np.int32)
    data = pa.py_buffer(b"".join(encoded))
    return pa.StringArray.from_buffers(len(encoded), pa.py_buffer(offsets), data)

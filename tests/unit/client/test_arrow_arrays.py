"""Arrow arrays that are made of buffers, against those that pyarrow makes."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from lasttoken.arrow_arrays import bool_array, number_array, string_array

TEXTS = ["plain", "", "漢字 \U0001f600", "x" * 50]


@pytest.mark.parametrize("most_bytes", [50, 60, 2**31 - 1])
def test_strings(most_bytes):
    array = string_array(iter(TEXTS), most_bytes=most_bytes)
    array.validate(full=True)
    assert array.equals(pa.chunked_array([pa.array(TEXTS)]))
    assert all(sum(len(str(text).encode()) for text in chunk) <= most_bytes
               for chunk in array.chunks)  # fmt: skip
    assert string_array([]).to_pylist() == []


@pytest.mark.parametrize("count", [0, 1, 8, 9])
def test_numbers_and_booleans(count):
    for dtype in (np.float32, np.float16, np.int8, np.uint8, np.int32):
        elements = np.arange(count).astype(dtype)
        assert number_array(pa.from_numpy_dtype(dtype), elements).equals(pa.array(elements))
    elements = np.arange(count) % 3 == 0
    assert bool_array(elements).equals(pa.array(elements, pa.bool_()))

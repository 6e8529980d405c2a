"""Hypothesis strategies that damage good files: bytes flipped, cut, grown, sizes made hostile."""

from __future__ import annotations

import copy
import struct
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

HOSTILE = (0, 1, 2**7, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63, 2**64 - 1)
HEAD_BYTES = 4096
"""Where the headers lie: half of all damage is done there."""

_LEAVES = (
    st.none()
    | st.booleans()
    | st.sampled_from(HOSTILE)
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(("../../etc/passwd", "/etc/passwd", "..", "", "\0", "\ud800", "{text}", "$A"))
)
VALUES = st.recursive(
    _LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=6,
)
"""Any JSON value."""


@st.composite
def damaged_bytes(draw: Callable[..., Any], base: bytes) -> bytes:
    """A good file with one to four injuries."""
    data = bytearray(base)
    for _ in range(draw(st.integers(1, 4))):
        if not data:
            break
        end = len(data) - 1
        at = draw(st.integers(0, min(end, HEAD_BYTES)) | st.integers(0, end))
        kind = draw(st.sampled_from(("flip", "size", "cut", "drop", "repeat", "noise")))
        if kind == "flip":
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "size":
            width = draw(st.sampled_from("BHIQ"))
            value = draw(st.sampled_from(HOSTILE) | st.integers(0, len(base) * 2))
            number = struct.pack(f"<{width}", value % 2 ** (8 * struct.calcsize(width)))
            data[at : at + len(number)] = number
        elif kind == "cut":
            del data[at:]
        elif kind == "drop":
            del data[at : at + draw(st.integers(1, 64))]
        elif kind == "repeat":
            data[at:at] = data[at : at + draw(st.integers(1, 64))]
        else:
            data[at : at + 8] = draw(st.binary(min_size=8, max_size=8))
    return bytes(data)


@st.composite
def damaged_value(draw: Callable[..., Any], base: Any) -> Any:
    """A good JSON value with one to three places replaced, taken away or added."""
    value = copy.deepcopy(base)
    for _ in range(draw(st.integers(1, 3))):
        if not (isinstance(value, (dict, list)) and value):
            return draw(VALUES)
        holder, key = _place(draw, value)
        kind = draw(st.sampled_from(("replace", "replace", "remove", "add")))
        if kind == "replace":
            holder[key] = draw(VALUES)
        elif kind == "remove":
            del holder[key]
        elif isinstance(holder, dict):
            holder[draw(st.text(max_size=8))] = draw(VALUES)
        else:
            holder.insert(key, draw(VALUES))
    return value


def _place(draw: Callable[..., Any], value: Any) -> tuple[Any, Any]:
    """A random key or index anywhere in a value."""
    while True:
        key = draw(st.sampled_from(sorted(value) if isinstance(value, dict) else range(len(value))))
        inner = value[key]
        if not (isinstance(inner, (dict, list)) and inner) or draw(st.booleans()):
            return value, key
        value = inner

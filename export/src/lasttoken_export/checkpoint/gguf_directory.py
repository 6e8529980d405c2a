"""The directory of a GGUF file: its metadata, and where its tensors lie.

The gguf package's own reader believes the sizes that stand in a file: an array that claims 2**62
elements keeps it busy for ever. Here each size is held against what is left of the file before
anything is made of it, so time and memory are bounded by the file, and everything in front of the
tensors by `MOST_BYTES`.

Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from lasttoken_export.errors import CorruptFile, UnsupportedModel

MOST_BYTES = 2**26
"""Most bytes in front of the tensors; the largest vocabularies of today take a quarter of it."""

_VERSIONS = (2, 3)
_MOST_DIMENSIONS = 4
_STRING, _ARRAY = gguf.GGUFValueType.STRING, gguf.GGUFValueType.ARRAY
_SCALARS: dict[int, np.dtype[Any]] = {
    gguf.GGUFValueType.UINT8: np.dtype("<u1"),
    gguf.GGUFValueType.INT8: np.dtype("<i1"),
    gguf.GGUFValueType.UINT16: np.dtype("<u2"),
    gguf.GGUFValueType.INT16: np.dtype("<i2"),
    gguf.GGUFValueType.UINT32: np.dtype("<u4"),
    gguf.GGUFValueType.INT32: np.dtype("<i4"),
    gguf.GGUFValueType.FLOAT32: np.dtype("<f4"),
    gguf.GGUFValueType.UINT64: np.dtype("<u8"),
    gguf.GGUFValueType.INT64: np.dtype("<i8"),
    gguf.GGUFValueType.FLOAT64: np.dtype("<f8"),
    gguf.GGUFValueType.BOOL: np.dtype("?"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufTensor:
    """Where a tensor lies in the file.

    Attributes:
        name: As in the file.
        offset: Of its first byte, from the start of the file.
        bytes: How many it has; all of them are in the file.
        type: How its elements are stored.
        shape: ``[out, in]`` for a linear layer: the reverse of the file's order.
    """

    name: str
    offset: int
    bytes: int
    type: gguf.GGMLQuantizationType
    shape: tuple[int, ...]


class _Malformed(Exception):
    """What is wrong with the file."""


class _Cursor:
    """Reads a mapped file from front to back, never beyond its end or `MOST_BYTES`."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._end = min(len(data), MOST_BYTES)
        self.offset = 0

    def bytes(self, count: int) -> bytes:
        if count > self._end - self.offset:
            raise _Malformed(f"{count} bytes are promised at {self.offset}, which are not there")
        start, self.offset = self.offset, self.offset + count
        return self._data[start : self.offset]

    def u32(self) -> int:
        return int(struct.unpack("<I", self.bytes(4))[0])

    def u64(self) -> int:
        return int(struct.unpack("<Q", self.bytes(8))[0])

    def string(self) -> str:
        try:
            return self.bytes(self.u64()).decode("utf-8")
        except UnicodeDecodeError:
            raise _Malformed(f"the string in front of {self.offset} is not UTF-8") from None

    def value(self) -> Any:
        kind = self.u32()
        if kind != _ARRAY:
            return self._values(kind, 1)[0]
        kind, count = self.u32(), self.u64()
        return self._values(kind, count)

    def _values(self, kind: int, count: int) -> list[Any]:
        if kind == _STRING:
            # Each takes 8 bytes at least; no list is made for more than can be there.
            if count > (self._end - self.offset) // 8:
                raise _Malformed(f"{count} strings are promised at {self.offset}")
            return [self.string() for _ in range(count)]
        if kind not in _SCALARS:
            raise _Malformed(f"there is a value of type {kind} at {self.offset}")
        scalar = _SCALARS[kind]
        values: list[Any] = np.frombuffer(self.bytes(count * scalar.itemsize), scalar).tolist()
        return values


def read_gguf_directory(path: Path) -> tuple[dict[str, Any], list[GgufTensor]]:
    """Read everything in front of the tensors.

    Args:
        path: The file.

    Returns:
        The metadata by key (strings, numbers, booleans, and lists of them), and the tensors.

    Raises:
        CorruptFile: It is truncated, not a GGUF file, or contradicts itself.
        UnsupportedModel: It is for machines of the other byte order.
        FileNotFoundError: There is none.
    """
    try:
        with path.open("rb") as file:
            if not path.stat().st_size:
                raise _Malformed("it is empty")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _read(_Cursor(data), len(data), path)
    except _Malformed as error:
        raise CorruptFile(
            f"{path} is truncated or not a GGUF file: {error}; download it again"
        ) from None


def _read(cursor: _Cursor, size: int, path: Path) -> tuple[dict[str, Any], list[GgufTensor]]:
    if cursor.bytes(4) != b"GGUF":
        raise _Malformed("it does not begin with GGUF")
    version = cursor.u32()
    if version and not version & 0xFFFF:
        raise UnsupportedModel(f"{path} is a GGUF file for big-endian machines; take the other one")
    if version not in _VERSIONS:
        raise _Malformed(f"its version is {version}, those read are {_VERSIONS}")
    tensor_count, value_count = cursor.u64(), cursor.u64()
    metadata: dict[str, Any] = {}
    for _ in range(value_count):  # a count that the file does not fill ends at its end
        key = cursor.string()
        if key in metadata:
            raise _Malformed(f"{key!r} is there twice")
        metadata[key] = cursor.value()
    # [name, dimensions, type, offset behind the directory]
    found = [_tensor(cursor) for _ in _counted(tensor_count)]
    alignment = metadata.get("general.alignment", gguf.GGUF_DEFAULT_ALIGNMENT)
    if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
        raise _Malformed(f"general.alignment is {alignment!r}, which is no power of two")
    start = -(-cursor.offset // alignment) * alignment
    tensors = [_located(*tensor, start, size) for tensor in found]
    if len({tensor.name for tensor in tensors}) < len(tensors):
        raise _Malformed("two tensors have the same name")
    return metadata, tensors


def _counted(count: int) -> range:
    if count > MOST_BYTES:
        raise _Malformed(f"{count} tensors are promised")
    return range(count)


def _tensor(cursor: _Cursor) -> tuple[str, tuple[int, ...], int, int]:
    name, dimensions = cursor.string(), cursor.u32()
    if not 1 <= dimensions <= _MOST_DIMENSIONS:
        raise _Malformed(f"{name!r} has {dimensions} dimensions")
    shape = tuple(cursor.u64() for _ in range(dimensions))
    return name, shape[::-1], cursor.u32(), cursor.u64()


def _located(
    name: str, shape: tuple[int, ...], kind: int, offset: int, start: int, size: int
) -> GgufTensor:
    try:
        block_size, block_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(kind)]
    except (ValueError, KeyError):
        raise _Malformed(f"{name!r} is of the unknown type {kind}") from None
    blocks, rest = divmod(shape[-1], block_size)
    count = math.prod(shape[:-1]) * blocks * block_bytes
    if rest or not all(shape):
        raise _Malformed(f"{name!r} has shape {shape}, which its type {kind} cannot have")
    if start + offset + count > size:
        raise _Malformed(f"it ends within {name!r}")
    return GgufTensor(
        name=name,
        offset=start + offset,
        bytes=count,
        type=gguf.GGMLQuantizationType(kind),
        shape=shape,
    )

"""Files of a model that somebody else wrote: read within a limit, refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeGuard

from lasttoken_export.errors import CorruptFile

MOST_BYTES = 2**26
"""Most bytes of a file of settings; an index of 100,000 tensors takes a tenth of it."""
DOWNLOAD = "download it again"
"""What to do where a file of a checkpoint is damaged."""
MOST_TOKENIZER_BYTES = 2**28
"""Most bytes of a tokenizer; the largest of today's models have a tenth of it."""


def read_bytes(path: Path, *, most_bytes: int) -> bytes:
    """Read a whole file.

    Raises:
        CorruptFile: It has more than `most_bytes` bytes.
        FileNotFoundError: There is none.
    """
    with path.open("rb") as file:
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise CorruptFile(f"{path} has more than {most_bytes} bytes; it is not what its name says")
    return content


def read_text(path: Path, *, most_bytes: int = MOST_BYTES, remedy: str = DOWNLOAD) -> str:
    """Read a UTF-8 file.

    Args:
        path: The file.
        most_bytes: It may have.
        remedy: What to do where it is damaged.

    Raises:
        CorruptFile: It has more than `most_bytes` bytes, or is not UTF-8.
        FileNotFoundError: There is none.
    """
    try:
        return read_bytes(path, most_bytes=most_bytes).decode("utf-8")
    except UnicodeDecodeError as error:
        raise CorruptFile(f"{path} is not UTF-8: {error}; {remedy}") from None


def read_json(path: Path, *, remedy: str = DOWNLOAD) -> Any:
    """Read a file of one JSON value.

    Args:
        path: The file.
        remedy: What to do where it is damaged.

    Raises:
        CorruptFile: It is too large, not JSON, or nested too deep.
        FileNotFoundError: There is none.
    """
    try:
        return json.loads(read_text(path, remedy=remedy))
    except (ValueError, RecursionError) as error:
        raise CorruptFile(f"{path} is not JSON: {error}; {remedy}") from None


def read_object(path: Path, *, remedy: str = DOWNLOAD) -> dict[str, Any]:
    """Read a file of one JSON object.

    Args:
        path: The file.
        remedy: What to do where it is damaged.

    Raises:
        CorruptFile: It is too large, or no JSON object.
        FileNotFoundError: There is none.
    """
    data = read_json(path, remedy=remedy)
    if not isinstance(data, dict):
        raise CorruptFile(f"{path} is not a JSON object; {remedy}")
    return data


def is_text(value: object) -> TypeGuard[str]:
    """Whether it is a string that UTF-8 can hold: JSON can spell half a surrogate pair."""
    return isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value)

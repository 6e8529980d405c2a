"""The texts that a model is calibrated on: those shipped with the exporter, or the user's own."""

from __future__ import annotations

import json
import random
from importlib import resources
from pathlib import Path

from lasttoken_export.errors import InvalidOption
from lasttoken_export.json_file import is_text

_LONG_TEXTS = 14
_PARTS_OF_A_LONG_TEXT = (3, 10)


def default_texts() -> list[str]:
    """Return the shipped texts: words, questions, prose, code, tables, some 30 languages.

    The last ones are long: several of the others one after the other, always the same.
    """
    file = resources.files("lasttoken_export.quantisation") / "calibration_texts.json"
    texts: list[str] = json.loads(file.read_text(encoding="utf-8"))["texts"]
    choice = random.Random(0)  # noqa: S311 - a fixed choice, no secret
    long_texts = []
    for _ in range(_LONG_TEXTS):
        parts = choice.sample(texts, choice.randint(*_PARTS_OF_A_LONG_TEXT))
        long_texts.append("\n".join(parts))
    return texts + long_texts


def read_texts(path: Path) -> list[str]:
    """Read the user's texts: a text a line; in a .jsonl file strings or objects with ``text``.

    Raises:
        InvalidOption: The file cannot be read, or holds no text.
    """
    try:
        content = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidOption(
            f"the calibration texts {str(path)!r} cannot be read: {error}"
        ) from None
    # A text in JSON may hold other line ends than the file's.
    lines = content.split("\n") if path.suffix == ".jsonl" else content.splitlines()
    read = (_text_of(line, path) for line in lines if line.strip())
    texts = [text for text in read if text.strip()]
    if not texts:
        raise InvalidOption(f"{str(path)!r} holds no calibration texts; give one a line")
    return texts


def _text_of(line: str, path: Path) -> str:
    if path.suffix != ".jsonl":
        return line
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        raise InvalidOption(f"{str(path)!r} has a line that is no JSON: {line[:60]!r}") from None
    text = value.get("text") if isinstance(value, dict) else value
    if not is_text(text):
        raise InvalidOption(
            f"{str(path)!r} has a line that is neither a string nor an object with 'text', or that "
            f"spells half a surrogate pair: {line[:60]!r}"
        )
    return text

"""The fast tokenizer of a Hugging Face folder."""

from __future__ import annotations

from pathlib import Path

from lasttoken_export.errors import UnsupportedTokenizer
from lasttoken_export.json_file import MOST_TOKENIZER_BYTES, read_text
from lasttoken_export.tokenizer.sentencepiece_file import tokenizer_json_from_sentencepiece


def tokenizer_json_of_folder(folder: Path, location: str) -> str:
    """Return the text of tokenizer.json, built from tokenizer.model where there is none.

    Args:
        folder: The folder.
        location: What to call it.

    Raises:
        UnsupportedTokenizer: There is none, and none can be built.
        CorruptFile: It is too large, or not of its format.
    """
    fast, slow = folder / "tokenizer.json", folder / "tokenizer.model"
    if fast.is_file():
        return read_text(fast, most_bytes=MOST_TOKENIZER_BYTES)
    if slow.is_file():
        return tokenizer_json_from_sentencepiece(slow)
    raise UnsupportedTokenizer(
        f"{location} has neither tokenizer.json nor tokenizer.model; copy one into it"
    )

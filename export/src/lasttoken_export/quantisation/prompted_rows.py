"""Calibration texts as token ids, tokenized by the code that serves, in the model's prompts."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lasttoken_export.catalogue import CatalogueEntry
from lasttoken_export.checkpoint import Checkpoint
from lasttoken_export.errors import TokenizerMismatch
from lasttoken_export.model_sources import TOKENIZER
from lasttoken_export.server_modules import server_module

_LONGEST_ROW = 1024
"""Longer texts teach nothing new of the activations, and cost the square of their length."""


def prompted_rows(
    checkpoint: Checkpoint, entry: CatalogueEntry, texts: Sequence[str], *, max_length: int
) -> list[NDArray[np.int32]]:
    """Tokenize each text in one of the model's prompts, which take turns.

    Args:
        checkpoint: Has the tokenizer.
        entry: Has the prompts.
        texts: The texts.
        max_length: Most tokens of a row as served.

    Raises:
        TokenizerMismatch: The tokenizer does not follow the model's contract.
    """
    longest = min(max_length, _LONGEST_ROW)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "tokenizer.json").write_text(checkpoint.tokenizer_json(), encoding="utf-8")
        contract = json.dumps({**entry.tokenizer, "max_length": longest})
        (folder / "contract.json").write_text(contract, encoding="utf-8")
        errors = server_module(TOKENIZER, "tokenizer_errors")
        try:
            tokenizer = server_module(TOKENIZER, "text_tokenizer").load_text_tokenizer(folder)
        except errors.InvalidContract as error:
            raise TokenizerMismatch(str(error)) from None
    apply_prompt = server_module(TOKENIZER, "prompts").apply_prompt
    names = list(entry.tokenizer["prompts"]) or [None]
    prompted = [
        apply_prompt(
            tokenizer.contract, text, prompt_name=names[number % len(names)], instruction=None
        )
        for number, text in enumerate(texts)
    ]
    rows = [row.ids for row in tokenizer.encode(prompted)]
    return [row for row in rows if len(row)]

"""A tokenizer of made-up words, one token each: texts whose tokens are known to the last id.

Random weights have no tokenizer, and the served model and sentence-transformers take texts. Word
``t17`` is token 17; the special tokens are Mistral's.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

OPENING_ID, CLOSING_ID, FIRST_WORD_ID = 1, 2, 3
SPECIAL_TOKENS = {"<s>": OPENING_ID, "</s>": CLOSING_ID}


def tokenizer_json(vocab_size: int) -> str:
    """Return a fast tokenizer of so many tokens as the text of tokenizer.json."""
    words = {f"t{index}": index for index in range(FIRST_WORD_ID, vocab_size)}
    special = {"<unk>": 0, **SPECIAL_TOKENS}
    added = [
        {"id": index, "content": token, "special": True, "single_word": False, "lstrip": False,
         "rstrip": False, "normalized": False}
        for token, index in special.items()
    ]  # fmt: skip
    template = [
        {"SpecialToken": {"id": "<s>", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
        {"SpecialToken": {"id": "</s>", "type_id": 0}},
    ]
    return json.dumps(
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": added,
            "normalizer": None,
            "pre_tokenizer": {"type": "WhitespaceSplit"},
            "post_processor": {
                "type": "TemplateProcessing",
                "single": template,
                "pair": template,
                "special_tokens": {
                    token: {"id": token, "ids": [index], "tokens": [token]}
                    for token, index in SPECIAL_TOKENS.items()
                },
            },
            "decoder": None,
            "model": {"type": "WordLevel", "vocab": {**special, **words}, "unk_token": "<unk>"},
        }
    )


def text_of(row: NDArray[np.int32]) -> str:
    """Return the text that gives a row's tokens, ``[length] int32`` with both special tokens."""
    return " ".join(f"t{index}" for index in row[1:-1])


def texts_of_rows(rows: Sequence[NDArray[np.int32]]) -> list[str]:
    """Return the text of each row."""
    return [text_of(row) for row in rows]

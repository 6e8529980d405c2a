"""A fast tokenizer from the vocabulary in a GGUF file's metadata.

Byte-level BPE (``tokenizer.ggml.model`` "gpt2") needs the pre-tokenizer that
``tokenizer.ggml.pre`` names; those known are written as the models' own
tokenizer.json files write them.

Source: https://github.com/ggml-org/llama.cpp/blob/master/src/llama-vocab.cpp
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from lasttoken_export.errors import UnsupportedTokenizer
from lasttoken_export.tokenizer.gguf_encoder_vocabulary import (
    unigram_tokenizer_json,
    wordpiece_tokenizer_json,
)
from lasttoken_export.tokenizer.sentencepiece_bpe import (
    Piece,
    PieceType,
    tokenizer_json_from_pieces,
)

_KINDS = ("gpt2", "llama", "bert", "t5")
"""Byte-level BPE, SentencePiece BPE, WordPiece, and SentencePiece's unigram model."""
_BYTE_LEVEL = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": True,
    "use_regex": True,
}
_PRE_TOKENIZERS: dict[str, Any] = {
    "gpt-2": _BYTE_LEVEL,
    "smollm": {
        "type": "Sequence",
        "pretokenizers": [{"type": "Digits", "individual_digits": True}, _BYTE_LEVEL],
    },
}


def tokenizer_json_from_gguf(metadata: Mapping[str, Any]) -> str:
    """Return the text of a tokenizer.json that encodes as llama.cpp does with this file.

    Args:
        metadata: Values by key.

    Raises:
        UnsupportedTokenizer: The kind of vocabulary or its pre-tokenizer is not known.
    """
    kind = metadata.get("tokenizer.ggml.model")
    tokens: Any = metadata.get("tokenizer.ggml.tokens")
    types: Any = metadata.get("tokenizer.ggml.token_type")
    count = len(tokens) if isinstance(tokens, list) else 0
    scores = metadata.get("tokenizer.ggml.scores") or [0.0] * count
    if (
        kind not in _KINDS
        or not _are(str, tokens)
        or not _are(int, types)
        or not _are(float, scores)
        or not len(types) == len(scores) == count > 0
    ):
        raise UnsupportedTokenizer(
            f"the GGUF file has a vocabulary of kind {kind!r} with {count} tokens; "
            f"known are {', '.join(_KINDS)}: put the model's tokenizer.json beside the file"
        )
    if kind == "bert":
        return wordpiece_tokenizer_json(metadata)
    if kind == "t5":
        return unigram_tokenizer_json(metadata)
    if kind == "llama":
        if metadata.get("tokenizer.ggml.add_space_prefix") is False:
            raise UnsupportedTokenizer(
                "the GGUF file's vocabulary adds no space before the text, which is not rebuilt: "
                "put the model's tokenizer.json beside the file"
            )
        return tokenizer_json_from_pieces(
            [Piece(*piece) for piece in zip(tokens, scores, types, strict=True)]
        )
    pre = metadata.get("tokenizer.ggml.pre")
    if pre not in _PRE_TOKENIZERS:
        raise UnsupportedTokenizer(
            f"the GGUF file's pre-tokenizer is {pre!r}; known are {sorted(_PRE_TOKENIZERS)}: put "
            "the model's tokenizer.json beside the file"
        )
    merges = metadata.get("tokenizer.ggml.merges", [])
    pairs = [merge.split(" ") for merge in merges] if _are(str, merges) else []
    if len(pairs) != len(merges) or any(len(pair) != 2 for pair in pairs):
        raise UnsupportedTokenizer(
            "the GGUF file's merges are not pairs of tokens: put the model's tokenizer.json beside "
            "the file"
        )
    return json.dumps(
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [
                {
                    "id": index,
                    "content": token,
                    "single_word": False,
                    "lstrip": False,
                    "rstrip": False,
                    "normalized": False,
                    "special": kind == PieceType.CONTROL,
                }
                for index, (token, kind) in enumerate(zip(tokens, types, strict=True))
                if kind in (PieceType.CONTROL, PieceType.USER_DEFINED)
            ],
            "normalizer": None,
            "pre_tokenizer": _PRE_TOKENIZERS[pre],
            "post_processor": None,
            "decoder": {**_BYTE_LEVEL, "add_prefix_space": True},
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": None,
                "continuing_subword_prefix": "",
                "end_of_word_suffix": "",
                "fuse_unk": False,
                "byte_fallback": False,
                "ignore_merges": False,
                "vocab": {token: index for index, token in enumerate(tokens)},
                "merges": pairs,
            },
        },
        ensure_ascii=False,
    )


def _are(kind: type, values: Any) -> bool:
    """Whether it is a list of such values; the file says of each list what it holds."""
    return isinstance(values, list) and all(type(value) is kind for value in values)

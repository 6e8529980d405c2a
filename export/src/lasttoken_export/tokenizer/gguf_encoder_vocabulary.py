"""Fast tokenizers of the encoders from the vocabularies in GGUF files: WordPiece and unigram.

Both are written as the models' own tokenizer.json files write them (BERT's, XLM-RoBERTa's), whose
ids the models were trained on. No special token is added: that is the contract's business.

Source: https://github.com/ggml-org/llama.cpp/blob/master/conversion/bert.py
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

from lasttoken_export.errors import UnsupportedTokenizer
from lasttoken_export.tokenizer.sentencepiece_bpe import PieceType

_WORD_START = "\u2581"
"""What llama.cpp puts before a word's first piece, in place of ``##`` before all others."""
_UNKNOWN_WORD = "[UNK]"
_ADDED = (PieceType.UNKNOWN, PieceType.CONTROL, PieceType.USER_DEFINED)


def wordpiece_tokenizer_json(metadata: Mapping[str, Any]) -> str:
    """Return the text of a WordPiece tokenizer.json.

    Raises:
        UnsupportedTokenizer: It has no token for unknown words.
    """
    tokens, types = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"]

    def published(token: str, kind: int) -> str:
        if kind == PieceType.CONTROL:
            return token
        return token[1:] if token.startswith(_WORD_START) else f"##{token}"

    pieces = [published(token, kind) for token, kind in zip(tokens, types, strict=True)]
    if _UNKNOWN_WORD not in pieces or len(set(pieces)) != len(pieces):
        raise UnsupportedTokenizer(
            f"the GGUF file's vocabulary has no {_UNKNOWN_WORD!r}, or a token twice: put the "
            "model's tokenizer.json beside the file"
        )
    return _tokenizer_json(
        added=_added_tokens(pieces, types),
        normalizer={
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            # None: as lowercase says, which is what BERT's tokenizers do.
            "strip_accents": metadata.get("tokenizer.ggml.normalizer.strip_accents"),
            "lowercase": bool(metadata.get("tokenizer.ggml.normalizer.lowercase", True)),
        },
        pre_tokenizer={"type": "BertPreTokenizer"},
        decoder={"type": "WordPiece", "prefix": "##", "cleanup": True},
        model={
            "type": "WordPiece",
            "unk_token": _UNKNOWN_WORD,
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": {piece: index for index, piece in enumerate(pieces)},
        },
    )


def unigram_tokenizer_json(metadata: Mapping[str, Any]) -> str:
    """Return the text of a tokenizer.json that encodes as SentencePiece's unigram model does.

    Raises:
        UnsupportedTokenizer: White space is kept or no space stands before the text, which no model
            of the family does; or it has not one unknown piece.
    """
    tokens, types = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"]
    scores = metadata.get("tokenizer.ggml.scores") or []
    unknown = [index for index, kind in enumerate(types) if kind == PieceType.UNKNOWN]
    if (
        len(unknown) != 1
        or len(scores) != len(tokens)
        or metadata.get("tokenizer.ggml.add_space_prefix") is False
        or metadata.get("tokenizer.ggml.remove_extra_whitespaces") is False
    ):
        raise UnsupportedTokenizer(
            "the GGUF file's unigram vocabulary has no scores or not one unknown piece, keeps "
            "white space or adds no space before the text: put the model's tokenizer.json beside "
            "the file"
        )
    charsmap = metadata.get("tokenizer.ggml.precompiled_charsmap")
    if charsmap and not (
        isinstance(charsmap, list)
        and all(type(byte) is int and 0 <= byte < 256 for byte in charsmap)
    ):
        raise UnsupportedTokenizer(
            "the GGUF file's precompiled_charsmap is no list of bytes: put the model's "
            "tokenizer.json beside the file"
        )
    metaspace = {
        "type": "Metaspace",
        "replacement": _WORD_START,
        "prepend_scheme": "always",
        "split": True,
    }
    return _tokenizer_json(
        added=_added_tokens(tokens, types),
        normalizer=charsmap
        and {
            "type": "Precompiled",
            "precompiled_charsmap": base64.b64encode(bytes(charsmap)).decode(),
        },
        pre_tokenizer={
            "type": "Sequence",
            "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace],
        },
        decoder=metaspace,
        model={
            "type": "Unigram",
            "unk_id": unknown[0],
            "vocab": [[piece, float(score)] for piece, score in zip(tokens, scores, strict=True)],
            "byte_fallback": False,
        },
    )


def _added_tokens(pieces: Sequence[str], types: Sequence[int]) -> list[dict[str, Any]]:
    return [
        {
            "id": index,
            "content": piece,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": kind != PieceType.USER_DEFINED,
        }
        for index, (piece, kind) in enumerate(zip(pieces, types, strict=True))
        if kind in _ADDED
    ]


def _tokenizer_json(*, added: list[dict[str, Any]], **parts: Any) -> str:
    data = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added}
    return json.dumps({**data, "post_processor": None, **parts}, ensure_ascii=False)

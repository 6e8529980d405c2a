"""A fast tokenizer from the pieces of a SentencePiece BPE vocabulary with byte fallback.

That is the tokenizer of Llama 2 and of Mistral 7B v0.1, from which SFR-Embedding-Mistral and
e5-mistral descend. SentencePiece merges, of all neighbours whose union is a piece, the pair with
the highest score; a list of merges in order of score, as ``tokenizers`` wants it, says the same.

Source: https://github.com/google/sentencepiece/blob/master/src/bpe_model.cc
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from lasttoken_export.errors import UnsupportedTokenizer

_SPACE = "▁"
LONGEST_PIECE = 512
"""Characters of a piece; the ways to cut one are tried, so that their number must be bounded.
SentencePiece's own trainer makes pieces of 16 at most."""


class PieceType(IntEnum):
    """Types of pieces, the same in SentencePiece files and in GGUF metadata."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, slots=True)
class Piece:
    """An entry of the vocabulary; its place is its id."""

    text: str
    score: float
    type: int


def tokenizer_json_from_pieces(pieces: Sequence[Piece]) -> str:
    """Return the text of a tokenizer.json that encodes as SentencePiece does.

    No BOS or EOS is added: that is the contract's business.

    Raises:
        UnsupportedTokenizer: There is no byte fallback, or no unknown piece, or a piece is longer
            than `LONGEST_PIECE`.
    """
    if any(len(piece.text) > LONGEST_PIECE for piece in pieces):
        raise UnsupportedTokenizer(
            f"the SentencePiece vocabulary has a piece of more than {LONGEST_PIECE} characters; "
            "put the model's tokenizer.json beside it"
        )
    vocabulary = {piece.text: index for index, piece in enumerate(pieces)}
    unknown = [piece.text for piece in pieces if piece.type == PieceType.UNKNOWN]
    if sum(piece.type == PieceType.BYTE for piece in pieces) != 256 or len(unknown) != 1:
        raise UnsupportedTokenizer(
            "the SentencePiece vocabulary has no complete byte fallback, or not one unknown piece; "
            "put the model's tokenizer.json beside it"
        )
    added = [
        {
            "id": index,
            "content": piece.text,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": piece.type != PieceType.USER_DEFINED,
        }
        for index, piece in enumerate(pieces)
        if piece.type in (PieceType.UNKNOWN, PieceType.CONTROL, PieceType.USER_DEFINED)
    ]
    data: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": _SPACE},
                {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE},
            ],
        },
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": unknown[0],
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": vocabulary,
            "merges": _merges(pieces),
        },
    }
    return json.dumps(data, ensure_ascii=False)


def _merges(pieces: Sequence[Piece]) -> list[list[str]]:
    """All ways to make a piece of two, the best score first.

    Where scores are equal SentencePiece merges the leftmost pair. In Mistral's vocabulary those are
    the runs of spaces, all of the lowest score: a run grows from its left end to the longest piece.
    The longest piece first, with the longest left part, does the same.
    """
    mergeable = {
        piece.text
        for piece in pieces
        if piece.type in (PieceType.NORMAL, PieceType.USER_DEFINED, PieceType.UNUSED)
    }
    found = []
    for piece in pieces:
        if piece.type not in (PieceType.NORMAL, PieceType.UNUSED):
            continue
        for cut in range(1, len(piece.text)):
            left, right = piece.text[:cut], piece.text[cut:]
            if left in mergeable and right in mergeable:
                found.append((-piece.score, -len(piece.text), -cut, left, right))
    found.sort()
    return [[left, right] for *_, left, right in found]

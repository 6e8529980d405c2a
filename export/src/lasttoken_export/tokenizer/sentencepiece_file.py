"""Reads a SentencePiece ``tokenizer.model``: its pieces, and whether it is of the kind we rebuild.

The few fields that are needed are declared here; a reader of the protobuf wire format ignores the
rest.

Source: https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from lasttoken_export.errors import CorruptFile, UnsupportedTokenizer
from lasttoken_export.json_file import MOST_TOKENIZER_BYTES, read_bytes
from lasttoken_export.tokenizer.sentencepiece_bpe import Piece, tokenizer_json_from_pieces

_FIELD = descriptor_pb2.FieldDescriptorProto
_BPE = 2


def tokenizer_json_from_sentencepiece(path: Path) -> str:
    """Return the text of a tokenizer.json that encodes as the file does.

    Raises:
        CorruptFile: It is not a SentencePiece file.
        UnsupportedTokenizer: It is of another kind than Llama's and Mistral's.
    """
    return tokenizer_json_from_pieces(sentencepiece_pieces(path))


def sentencepiece_pieces(path: Path) -> list[Piece]:
    """Return the vocabulary of a file, in the order of its ids.

    Raises:
        CorruptFile: It is not a SentencePiece file.
        UnsupportedTokenizer: It is of another kind than Llama's and Mistral's.
    """
    try:
        content = read_bytes(path, most_bytes=MOST_TOKENIZER_BYTES)
        model = _model_class().FromString(content)
    except DecodeError as error:
        raise CorruptFile(
            f"{path} is not a SentencePiece model: {error}; download it again"
        ) from None
    trainer, normalizer = model.trainer_spec, model.normalizer_spec
    if trainer.model_type != _BPE or not trainer.byte_fallback:
        raise UnsupportedTokenizer(
            f"{path} is of type {trainer.model_type} with byte_fallback {trainer.byte_fallback}; "
            "only BPE with byte fallback is rebuilt: put the model's tokenizer.json beside it"
        )
    if (
        normalizer.precompiled_charsmap
        or not normalizer.add_dummy_prefix
        or (normalizer.remove_extra_whitespaces)
    ):
        raise UnsupportedTokenizer(
            f"{path} normalises text in a way that is not rebuilt ({normalizer.name!r}): put the "
            "model's tokenizer.json beside it"
        )
    # protobuf hands out bytes where a string of an old-style message is not UTF-8.
    if not all(isinstance(piece.piece, str) for piece in model.pieces):
        raise CorruptFile(f"{path} has a piece that is not UTF-8; download it again")
    return [Piece(piece.piece, piece.score, piece.type) for piece in model.pieces]


@cache
def _model_class() -> Any:
    file = descriptor_pb2.FileDescriptorProto(
        name="lasttoken_sentencepiece.proto", package="lasttoken.sentencepiece", syntax="proto2"
    )
    _add_message(
        file, "Piece", piece=(1, _FIELD.TYPE_STRING, None), score=(2, _FIELD.TYPE_FLOAT, None),
        type=(3, _FIELD.TYPE_INT32, 1),
    )  # fmt: skip
    _add_message(
        file, "TrainerSpec", model_type=(3, _FIELD.TYPE_INT32, 1),
        byte_fallback=(35, _FIELD.TYPE_BOOL, False),
    )  # fmt: skip
    _add_message(
        file, "NormalizerSpec", name=(1, _FIELD.TYPE_STRING, None),
        precompiled_charsmap=(2, _FIELD.TYPE_BYTES, None),
        add_dummy_prefix=(3, _FIELD.TYPE_BOOL, True),
        remove_extra_whitespaces=(4, _FIELD.TYPE_BOOL, True),
    )  # fmt: skip
    model = file.message_type.add(name="ModelProto")
    for number, name, kind, label in (
        (1, "pieces", "Piece", _FIELD.LABEL_REPEATED),
        (2, "trainer_spec", "TrainerSpec", _FIELD.LABEL_OPTIONAL),
        (3, "normalizer_spec", "NormalizerSpec", _FIELD.LABEL_OPTIONAL),
    ):
        model.field.add(
            name=name,
            number=number,
            label=label,
            type=_FIELD.TYPE_MESSAGE,
            type_name=f".lasttoken.sentencepiece.{kind}",
        )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    descriptor = pool.FindMessageTypeByName("lasttoken.sentencepiece.ModelProto")
    return message_factory.GetMessageClass(descriptor)


def _add_message(
    file: descriptor_pb2.FileDescriptorProto, message_name: str, /, **fields: tuple[int, Any, Any]
) -> None:
    message = file.message_type.add(name=message_name)
    for field_name, (number, kind, default) in fields.items():
        field = message.field.add(
            name=field_name, number=number, label=_FIELD.LABEL_OPTIONAL, type=kind
        )
        if default is not None:
            field.default_value = str(default).lower()

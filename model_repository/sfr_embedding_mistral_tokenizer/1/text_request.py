"""One request of the tokenizer: from its tensors to prompted texts, or to a refusal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from contract import TokenizerContract
from numpy.typing import NDArray
from prompts import PromptedText, apply_prompt
from text_tokenizer import TokenizedText
from tokenizer_errors import InvalidText


@dataclass(frozen=True, slots=True, kw_only=True)
class TextLimits:
    """What is refused.

    Attributes:
        max_text_bytes: Longest text in bytes of UTF-8.
        max_texts_per_request: Most texts of a request.
        refuse_overflow: Whether a text beyond the model's maximum length is refused, not cut.
    """

    max_text_bytes: int
    max_texts_per_request: int
    refuse_overflow: bool


def read_texts(
    contract: TokenizerContract,
    limits: TextLimits,
    text: NDArray[Any],
    prompt_name: NDArray[Any] | None,
    instruction: NDArray[Any] | None,
) -> list[PromptedText]:
    """Decode the tensors of a request and apply its prompts.

    Args:
        contract: Knows the prompts.
        limits: What is refused.
        text: ``[rows, 1]`` bytes objects.
        prompt_name: The same, or None.
        instruction: The same, or None.

    Raises:
        InvalidText: A row is not acceptable; the message names it.
    """
    if text.ndim != 2 or text.shape[1] != 1 or not len(text):
        raise InvalidText(
            f"TEXT has shape {list(text.shape)}; send [texts, 1] with at least one text",
            reason="shape",
        )
    if len(text) > limits.max_texts_per_request:
        raise InvalidText(
            f"TEXT holds {len(text)} texts, this model takes {limits.max_texts_per_request} a "
            "request; send more requests (EmbeddingClient: max_texts_per_request)",
            reason="shape",
        )
    for name, tensor in (("PROMPT_NAME", prompt_name), ("INSTRUCTION", instruction)):
        if tensor is not None and tensor.shape != text.shape:
            raise InvalidText(
                f"{name} has shape {list(tensor.shape)}, TEXT {list(text.shape)}; send one a text",
                reason="shape",
            )
    return [
        apply_prompt(
            contract,
            _decode("TEXT", row, text, limits.max_text_bytes),
            prompt_name=_decode_optional("PROMPT_NAME", row, prompt_name, limits.max_text_bytes),
            instruction=_decode_optional("INSTRUCTION", row, instruction, limits.max_text_bytes),
        )
        for row in range(len(text))
    ]


def check_tokens(
    contract: TokenizerContract, limits: TextLimits, rows: list[TokenizedText]
) -> None:
    """Refuse rows that must not be computed.

    Raises:
        InvalidText: A row has no token, or was cut where that is not wanted.
    """
    for index, row in enumerate(rows):
        if not len(row.ids):
            raise InvalidText(
                f"text {index} is empty and {contract.model} adds no token of its own; "
                "there is nothing to embed",
                reason="empty",
            )
        if row.truncated and limits.refuse_overflow:
            raise InvalidText(
                f"text {index} is longer than {contract.max_length} tokens; shorten or split it",
                reason="too_long",
            )


def pad_rows(
    rows: list[TokenizedText],
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.bool_]]:
    """Lay rows out as tensors.

    Returns:
        ``[rows, longest]`` ids padded with 0, ``[rows, 1]`` lengths, ``[rows, 1]`` truncated.
    """
    lengths = np.array([[len(row.ids)] for row in rows], np.int32)
    input_ids = np.zeros((len(rows), int(lengths.max())), np.int32)
    for index, row in enumerate(rows):
        input_ids[index, : len(row.ids)] = row.ids
    return input_ids, lengths, np.array([[row.truncated] for row in rows], np.bool_)


def _decode(name: str, row: int, tensor: NDArray[Any], max_bytes: int) -> str:
    data: bytes = tensor[row, 0]
    if len(data) > max_bytes:
        raise InvalidText(
            f"{name} {row} has {len(data)} bytes, the limit is {max_bytes}; shorten or split it",
            reason="too_long",
        )
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidText(
            f"{name} {row} is not UTF-8 (byte {data[error.start]:#04x} at {error.start}); "
            "encode it as UTF-8",
            reason="encoding",
        ) from None


def _decode_optional(
    name: str, row: int, tensor: NDArray[Any] | None, max_bytes: int
) -> str | None:
    return None if tensor is None else _decode(name, row, tensor, max_bytes) or None

"""Token ids that a caller sends in place of a text.

They are the ids of the text alone or with the special tokens around it: what the model's contract
puts in front and behind (BOS, EOS) is added where it is missing, since with last-token pooling the
vector of a row without its EOS is another one. It is not doubled where it is there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lasttoken.gateway.refusals import TEXT_TOO_LONG, Refusal, invalid


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenContract:
    """What rows of a model's tokens look like.

    Attributes:
        opening_ids: Special tokens in front of a text.
        closing_ids: Special tokens behind it.
        vocab_size: Ids are below this.
        max_length: Most tokens of a row, special ones included.
    """

    opening_ids: tuple[int, ...]
    closing_ids: tuple[int, ...]
    vocab_size: int
    max_length: int


def completed_row(
    ids: Sequence[int], contract: TokenContract, *, index: int, model: str
) -> npt.NDArray[np.int32]:
    """Check a row of ids and give it the special tokens that it lacks.

    Args:
        ids: The caller's ids.
        contract: The model's.
        index: Place of the row in the request, for messages.
        model: Name of the model, for messages.

    Returns:
        `[length]` int32, at least one id.

    Raises:
        Refusal: 400 for an id beyond the vocabulary or an empty row; 413 for a row that is too
            long: where a caller counts tokens itself it would not expect them to be cut.
    """
    opening, closing = contract.opening_ids, contract.closing_ids
    row = list(ids)
    if not row:
        raise invalid(f"input[{index}] holds no token; there is nothing to embed", param="input")
    for place, number in enumerate(row):
        if not 0 <= number < contract.vocab_size:
            raise invalid(
                f"input[{index}][{place}] is {number}; the vocabulary of {model} is 0 to "
                f"{contract.vocab_size - 1}. Are these the ids of another model's tokenizer?",
                param="input",
            )
    if tuple(row[: len(opening)]) != opening:
        row = [*opening, *row]
    behind = len(row) - len(closing)
    if behind < len(opening) or tuple(row[behind:]) != closing:
        row = [*row, *closing]
    if len(row) > contract.max_length:
        raise Refusal(
            TEXT_TOO_LONG,
            f"input[{index}] has {len(row)} tokens with the special ones; the maximum of {model} "
            f"is {contract.max_length}: shorten or split it",
            param="input",
        )
    return np.array(row, np.int32)

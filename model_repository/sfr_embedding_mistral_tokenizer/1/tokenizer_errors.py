"""Why a text was not tokenized, and why a tokenizer was not loaded.

InvalidContract      contract.json, the settings or the tokenizer file are not acceptable
InvalidText          the caller's text, prompt or instruction is not acceptable
"""

from __future__ import annotations

from typing import Literal, get_args

Reason = Literal["encoding", "prompt", "shape", "empty", "too_long"]
REASONS: tuple[Reason, ...] = get_args(Reason)


class InvalidContract(ValueError):
    """The model must not be served: its tokens would not be those that it was trained with."""


class InvalidText(ValueError):
    """The caller must change the request; answered with INVALID_ARGUMENT.

    Attributes:
        reason: A short word under which it is counted.
    """

    def __init__(self, message: str, *, reason: Reason) -> None:
        super().__init__(message)
        self.reason: Reason = reason

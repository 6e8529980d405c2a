"""What a dialect is: the shapes of a request, of its answer and of an error."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from lasttoken.gateway.embedding_core import Embedded, EmbedJob
from lasttoken.gateway.exchange import Exchange
from lasttoken.gateway.refusals import Refusal, invalid


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """One way to ask for embeddings.

    Attributes:
        path: Where it is asked.
        summary: What it is, for the OpenAPI document.
        payload: The request's type.
        job: Makes the job of a payload, or raises a `Refusal`.
        answer: Writes the answer, piece by piece.
        error: Writes an error.
        answer_schema: JSON schema of the answer.
        error_schema: JSON schema of an error.
        hidden: Left out of the OpenAPI document, as another path's twin.
    """

    path: str
    summary: str
    payload: type[msgspec.Struct]
    job: Callable[[Any], EmbedJob]
    answer: Callable[[Any, Embedded, Exchange], Iterator[bytes]]
    error: Callable[[Refusal, Exchange], dict[str, Any]]
    answer_schema: dict[str, Any]
    error_schema: dict[str, Any]
    hidden: bool = False


def inputs_of(value: str | Sequence[Any], *, param: str) -> list[str] | list[list[int]]:
    """The inputs of a field that may hold a text, texts, token ids, or rows of token ids.

    Raises:
        Refusal: 400: it is empty, or holds more than one kind.
    """
    if isinstance(value, str):
        return [value]
    kinds = {type(item) for item in value}
    if kinds == {int}:
        return [list(value)]
    if kinds in ({str}, {list}):
        return list(value)
    if not kinds:
        raise invalid(f"{param} is empty; send at least one text", param=param)
    raise invalid(
        f"{param} mixes texts and token ids; send only texts, or only rows of token ids",
        param=param,
    )


def number_rows_schema(kind: str = "number") -> dict[str, Any]:
    """JSON schema of a list of vectors."""
    return {"type": "array", "items": {"type": "array", "items": {"type": kind}}}

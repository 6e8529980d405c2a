"""Cohere's `POST /v2/embed`, for texts.

Source: https://docs.cohere.com/reference/embed
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from lasttoken.gateway.dialect import Dialect, number_rows_schema
from lasttoken.gateway.embedding_core import Embedded, EmbedJob
from lasttoken.gateway.exchange import Exchange
from lasttoken.gateway.openai_shapes import Dimensions, ModelName
from lasttoken.gateway.prompt_choice import PromptChoice
from lasttoken.gateway.refusals import Refusal, invalid
from lasttoken.gateway.vector_json import array_pieces, base64_text, dumps

EmbeddingType = Literal["float", "base64", "binary", "ubinary", "int8", "uint8"]


class CohereContent(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A part of an input; only texts are embedded here."""

    type: Literal["text", "image_url"]
    text: str | None = None
    image_url: dict[str, Any] | None = None


class CohereInput(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """An input of one or more parts."""

    content: list[CohereContent]


class CohereRequest(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A request of Cohere's."""

    model: ModelName = None
    input_type: Literal["search_document", "search_query", "classification", "clustering", "image"]
    texts: list[str] | None = None
    inputs: list[CohereInput] | None = None
    images: list[str] | None = None
    embedding_types: list[EmbeddingType] | None = None
    output_dimension: Dimensions | None = None
    truncate: Literal["NONE", "START", "END"] = "END"
    max_tokens: int | None = None
    priority: Annotated[
        int, msgspec.Meta(ge=0, le=999, description="0 is interactive, more is bulk.")
    ] = 0


def _job(payload: CohereRequest) -> EmbedJob:
    for name in ("images", "max_tokens"):
        if getattr(payload, name) is not None:
            raise invalid(f"{name} is not supported here; leave it out", param=name)
    if payload.input_type == "image":
        raise invalid("input_type is 'image'; only texts are embedded here", param="input_type")
    if payload.truncate == "START":
        raise invalid("truncate is 'START'; texts are cut at their end only", param="truncate")
    for kind in payload.embedding_types or ():
        if kind in ("int8", "uint8"):
            raise invalid(
                f"embedding_types holds {kind!r}, which needs the ranges of a corpus; use 'float', "
                "'base64', 'binary' or 'ubinary'",
                param="embedding_types",
            )
    return EmbedJob(
        inputs=_texts(payload),
        model=payload.model,
        prompt=PromptChoice(input_type=payload.input_type),
        dimensions=payload.output_dimension,
        refuse_long=payload.truncate == "NONE",
        priority="bulk" if payload.priority else "interactive",
    )


def _texts(payload: CohereRequest) -> Sequence[str]:
    if (payload.texts is None) == (payload.inputs is None):
        raise invalid("send texts or inputs, one of them", param="texts")
    if payload.texts is not None:
        texts = payload.texts
    else:
        parts = [item.content for item in payload.inputs or ()]
        if any(len(part) != 1 or part[0].type != "text" or part[0].text is None for part in parts):
            raise invalid("each of inputs must have one content, of type text", param="inputs")
        texts = [part[0].text or "" for part in parts]
    if not texts:
        raise invalid("there is no text; send at least one", param="texts")
    return texts


def _answer(payload: CohereRequest, embedded: Embedded, exchange: Exchange) -> Iterator[bytes]:
    kinds: list[EmbeddingType] = list(dict.fromkeys(payload.embedding_types or ["float"]))
    after = {
        "meta": {"api_version": {"version": "2"}, "billed_units": {"input_tokens": embedded.tokens}}
    }
    opening = b'{"id":' + dumps(exchange.request_id) + b',"texts":' + dumps(_texts(payload))
    opening += b',"response_type":"embeddings_by_type","embeddings":{'
    for number, kind in enumerate(kinds):
        last = number == len(kinds) - 1
        yield from array_pieces(
            _converted(embedded.vectors, kind),
            (lambda _, row: base64_text(row)) if kind == "base64" else (lambda _, row: row),
            before=opening + dumps(kind) + b":",
            after=b"}," + dumps(after)[1:] if last else b",",
        )
        opening = b""


def _converted(vectors: npt.NDArray[np.float32], kind: EmbeddingType) -> npt.NDArray[Any]:
    """Vectors in another type; binary ones hold eight signs a byte, the first in its highest bit.

    Source: https://docs.cohere.com/docs/embeddings#compression-levels
    """
    if kind not in ("binary", "ubinary"):
        return vectors
    packed = np.packbits(vectors > 0, axis=1)
    return packed if kind == "ubinary" else (packed.astype(np.int16) - 128).astype(np.int8)


def _error(refusal: Refusal, exchange: Exchange) -> dict[str, Any]:
    return {"id": exchange.request_id, "message": str(refusal)}


COHERE = Dialect(
    path="/v2/embed",
    summary="Cohere's embed",
    payload=CohereRequest,
    job=_job,
    answer=_answer,
    error=_error,
    answer_schema={
        "type": "object",
        "required": ["id", "embeddings", "texts", "meta", "response_type"],
        "properties": {
            "id": {"type": "string"},
            "texts": {"type": "array", "items": {"type": "string"}},
            "response_type": {"const": "embeddings_by_type"},
            "embeddings": {
                "type": "object",
                "additionalProperties": False,
                "properties": {
                    "float": number_rows_schema(),
                    "base64": {"type": "array", "items": {"type": "string"}},
                    "binary": number_rows_schema("integer"),
                    "ubinary": number_rows_schema("integer"),
                },
            },
            "meta": {"type": "object"},
        },
    },
    error_schema={
        "type": "object",
        "required": ["id", "message"],
        "properties": {"id": {"type": "string"}, "message": {"type": "string"}},
    },
)

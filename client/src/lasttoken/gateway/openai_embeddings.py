"""OpenAI's `POST /v1/embeddings`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from lasttoken.gateway.dialect import Dialect, inputs_of
from lasttoken.gateway.embedding_core import Embedded, EmbedJob
from lasttoken.gateway.exchange import Exchange
from lasttoken.gateway.openai_shapes import EmbeddingsRequest, error_body
from lasttoken.gateway.prompt_choice import PromptChoice
from lasttoken.gateway.refusals import Refusal
from lasttoken.gateway.vector_json import array_pieces, base64_text, dumps


def _job(payload: EmbeddingsRequest) -> EmbedJob:
    return EmbedJob(
        inputs=inputs_of(payload.input, param="input"),
        model=payload.model,
        prompt=PromptChoice(
            prompt_name=payload.prompt_name,
            input_type=payload.input_type,
            instruction=payload.instruction,
        ),
        dimensions=payload.dimensions,
        refuse_long=payload.truncate is False,
        priority=payload.priority or "interactive",
    )


def _answer(
    payload: EmbeddingsRequest,
    embedded: Embedded,
    exchange: Exchange,  # noqa: ARG001
) -> Iterator[bytes]:
    after: dict[str, Any] = {
        "model": payload.model or embedded.model.name,
        "usage": {"prompt_tokens": embedded.tokens, "total_tokens": embedded.tokens},
    }
    if embedded.truncated.any():  # an extension: what was cut should not go unsaid
        after["truncated"] = np.flatnonzero(embedded.truncated).tolist()
    in_base64 = payload.encoding_format == "base64"

    def item(index: int, row: Any) -> object:
        value = base64_text(row) if in_base64 else row
        return {"object": "embedding", "index": index, "embedding": value}

    return array_pieces(
        embedded.vectors,
        item,
        before=b'{"object":"list","data":',
        after=b"," + dumps(after)[1:],
    )


def _error(refusal: Refusal, exchange: Exchange) -> dict[str, Any]:  # noqa: ARG001
    return error_body(refusal)


ERROR_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": "string"},
            },
        }
    },
}

_ANSWER_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["object", "data", "model", "usage"],
    "properties": {
        "object": {"const": "list"},
        "data": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["object", "index", "embedding"],
                "properties": {
                    "object": {"const": "embedding"},
                    "index": {"type": "integer"},
                    "embedding": {
                        "description": "Numbers; a string of base64 when `encoding_format` is "
                        "base64: float32, little-endian.",
                        "anyOf": [
                            {"type": "array", "items": {"type": "number"}},
                            {"type": "string", "contentEncoding": "base64"},
                        ],
                    },
                },
            },
        },
        "model": {"type": "string"},
        "usage": {
            "type": "object",
            "required": ["prompt_tokens", "total_tokens"],
            "properties": {
                "prompt_tokens": {"type": "integer"},
                "total_tokens": {"type": "integer"},
            },
        },
        "truncated": {
            "description": "Positions of texts that were cut to the model's maximum; left out when "
            "none was.",
            "type": "array",
            "items": {"type": "integer"},
        },
    },
}

OPENAI = Dialect(
    path="/v1/embeddings",
    summary="OpenAI's embeddings",
    payload=EmbeddingsRequest,
    job=_job,
    answer=_answer,
    error=_error,
    answer_schema=_ANSWER_SCHEMA,
    error_schema=ERROR_SCHEMA,
)

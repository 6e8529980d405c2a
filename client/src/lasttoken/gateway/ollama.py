"""Ollama's `POST /api/embed`, and `POST /api/embeddings` of one text, which it superseded.

Source: https://docs.ollama.com/api/embed
https://github.com/ollama/ollama/blob/main/docs/api.md#generate-embedding
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import msgspec

from lasttoken.gateway.dialect import Dialect, inputs_of, number_rows_schema
from lasttoken.gateway.embedding_core import Embedded, EmbedJob
from lasttoken.gateway.exchange import Exchange
from lasttoken.gateway.openai_shapes import Dimensions, ModelName
from lasttoken.gateway.refusals import Refusal
from lasttoken.gateway.vector_json import array_pieces, dumps


class OllamaRequest(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A request of Ollama's; `options` and `keep_alive` are about its engine and are ignored."""

    model: ModelName = None
    input: str | list[str]
    truncate: bool | None = None
    dimensions: Dimensions | None = None
    options: dict[str, Any] | None = None
    keep_alive: str | int | float | None = None


class OllamaOneTextRequest(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A request of Ollama's for the vector of one text."""

    prompt: str
    model: ModelName = None
    options: dict[str, Any] | None = None
    keep_alive: str | int | float | None = None


def _model(name: str | None) -> str | None:
    return name and name.removesuffix(":latest")  # Ollama's tag of a model without one


def _job(payload: OllamaRequest) -> EmbedJob:
    return EmbedJob(
        inputs=inputs_of(payload.input, param="input"),
        model=_model(payload.model),
        dimensions=payload.dimensions,
        refuse_long=payload.truncate is False,
    )


def _answer(payload: OllamaRequest, embedded: Embedded, exchange: Exchange) -> Iterator[bytes]:
    after = {
        "total_duration": int((time.perf_counter() - exchange.started) * 1e9),  # nanoseconds
        "load_duration": 0,
        "prompt_eval_count": embedded.tokens,
    }
    return array_pieces(
        embedded.vectors,
        lambda _, row: row,
        before=b'{"model":' + dumps(payload.model or embedded.model.name) + b',"embeddings":',
        after=b"," + dumps(after)[1:],
    )


def _one_text_job(payload: OllamaOneTextRequest) -> EmbedJob:
    return EmbedJob(inputs=[payload.prompt], model=_model(payload.model))


def _one_text_answer(
    payload: OllamaOneTextRequest,  # noqa: ARG001
    embedded: Embedded,
    exchange: Exchange,  # noqa: ARG001
) -> Iterator[bytes]:
    yield dumps({"embedding": embedded.vectors[0]})


def _error(refusal: Refusal, exchange: Exchange) -> dict[str, Any]:  # noqa: ARG001
    return {"error": str(refusal)}


_ERROR_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["error"],
    "properties": {"error": {"type": "string"}},
}

OLLAMA = Dialect(
    path="/api/embed",
    summary="Ollama's embed",
    payload=OllamaRequest,
    job=_job,
    answer=_answer,
    error=_error,
    answer_schema={
        "type": "object",
        "required": ["model", "embeddings", "total_duration", "load_duration", "prompt_eval_count"],
        "properties": {
            "model": {"type": "string"},
            "embeddings": number_rows_schema(),
            "total_duration": {"type": "integer"},
            "load_duration": {"type": "integer"},
            "prompt_eval_count": {"type": "integer"},
        },
    },
    error_schema=_ERROR_SCHEMA,
)
OLLAMA_ONE_TEXT = Dialect(
    path="/api/embeddings",
    summary="Ollama's embeddings of one text, which its embed superseded",
    payload=OllamaOneTextRequest,
    job=_one_text_job,
    answer=_one_text_answer,
    error=_error,
    answer_schema={
        "type": "object",
        "required": ["embedding"],
        "properties": {"embedding": {"type": "array", "items": {"type": "number"}}},
    },
    error_schema=_ERROR_SCHEMA,
)

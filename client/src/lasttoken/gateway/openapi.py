"""The OpenAPI document, made of the very types that requests are decoded with."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import metadata
from typing import Any

import msgspec

from lasttoken.gateway.dialect import Dialect
from lasttoken.gateway.dialects import DIALECTS
from lasttoken.gateway.openai_embeddings import ERROR_SCHEMA

_MEANINGS = {
    400: "The request is not valid: its JSON, a field, a prompt, a size",
    401: "No API key, or one that is not valid",
    404: "There is no such model",
    408: "The request's body did not come in time",
    413: "The request has too many bytes, or a text too many tokens",
    422: "The request has too many texts",
    429: "A limit of the API key is reached; Retry-After says when it is not",
    500: "The gateway failed",
    502: "The server behind the gateway failed",
    503: "The server is overloaded or away, or the gateway is stopping; see Retry-After",
    504: "The answer did not come in time",
}
_WITH_RETRY_AFTER = (429, 503)

_MODEL_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["id", "object", "created", "owned_by", "dimensions"],
    "properties": {
        "id": {"type": "string"},
        "object": {"const": "model"},
        "created": {"type": "integer"},
        "owned_by": {"type": "string"},
        "dimensions": {"type": "integer"},
        "max_length": {"type": ["integer", "null"]},
        "prompts": {"type": "array", "items": {"type": "string"}},
        "matryoshka": {"type": ["object", "null"]},
        "licence": {"type": ["string", "null"]},
        "revision": {"type": ["string", "null"]},
        "precision": {"type": ["string", "null"]},
    },
}


def openapi_document(*, keys_required: bool) -> dict[str, Any]:
    """The document, as JSON values (OpenAPI 3.1).

    Args:
        keys_required: Whether this gateway wants API keys; without, none is mentioned.
    """
    document = _document()
    if not keys_required:
        del document["components"]["securitySchemes"]
        for path in document["paths"].values():
            for operation in path.values():
                operation.pop("security", None)
                operation["responses"].pop("401", None)
    return document


def _document() -> dict[str, Any]:
    shown = [dialect for dialect in DIALECTS if not dialect.hidden]
    _, components = msgspec.json.schema_components(
        [dialect.payload for dialect in shown], ref_template="#/components/schemas/{name}"
    )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "lasttoken gateway",
            "version": metadata.version("lasttoken"),
            "description": "Text embeddings from NVIDIA Triton, in the shapes of OpenAI, "
            "text-embeddings-inference, Ollama and Cohere.",
        },
        "paths": {
            **{dialect.path: {"post": _embedding(dialect)} for dialect in shown},
            "/v1/models": {
                "get": _get(
                    "The models, as OpenAI lists them",
                    {
                        "type": "object",
                        "required": ["object", "data"],
                        "properties": {
                            "object": {"const": "list"},
                            "data": {"type": "array", "items": _MODEL_SCHEMA},
                        },
                    },
                )
            },
            "/v1/models/{model}": {
                "get": {
                    **_get("One model", _MODEL_SCHEMA, extra=(404,)),
                    "parameters": [
                        {
                            "name": "model",
                            "in": "path",
                            "required": True,
                            "schema": {"type": "string", "minLength": 1},
                        }
                    ],
                }
            },
            "/info": {
                "get": _get(
                    "The default model, as text-embeddings-inference describes it",
                    {"type": "object", "required": ["model_id", "max_input_length"]},
                    extra=(400, 404),
                )
            },
            "/health": {"get": _open("The process lives")},
            "/ready": {"get": _open("Every model has just answered", extra=(503,))},
        },
        "components": {
            "schemas": components,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _embedding(dialect: Dialect) -> dict[str, Any]:
    return {
        "summary": dialect.summary,
        "security": [{"key": []}],
        "requestBody": {
            "required": True,
            "content": _json({"$ref": f"#/components/schemas/{dialect.payload.__name__}"}),
        },
        "responses": {
            "200": {"description": "The vectors", "content": _json(dialect.answer_schema)},
            **_errors(_MEANINGS, dialect.error_schema),
        },
    }


def _get(summary: str, schema: dict[str, Any], extra: Iterable[int] = ()) -> dict[str, Any]:
    return {
        "summary": summary,
        "security": [{"key": []}],
        "responses": {
            "200": {"description": summary, "content": _json(schema)},
            **_errors((401, 500, 502, 503, 504, *extra), ERROR_SCHEMA),
        },
    }


def _open(summary: str, extra: Iterable[int] = ()) -> dict[str, Any]:
    schema = {
        "type": "object",
        "required": ["status"],
        "properties": {"status": {"type": "string"}},
    }
    return {
        "summary": summary,
        "responses": {
            "200": {"description": summary, "content": _json(schema)},
            **_errors(extra, ERROR_SCHEMA),
        },
    }


def _errors(statuses: Iterable[int], schema: dict[str, Any]) -> dict[str, Any]:
    retry_after = {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds"}}
    return {
        str(status): {
            "description": _MEANINGS[status],
            "content": _json(schema),
            **({"headers": retry_after} if status in _WITH_RETRY_AFTER else {}),
        }
        for status in sorted(statuses)
    }


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}

"""OpenAI's shapes: the request for embeddings, its answer, the list of models, errors.

Source: https://platform.openai.com/docs/api-reference/embeddings
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from starlette.responses import Response

from lasttoken.gateway.refusals import Refusal
from lasttoken.gateway.served_models import ServedModel
from lasttoken.gateway.vector_json import dumps

TokenId = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
Texts = Annotated[
    str | list[str | TokenId | list[TokenId]],
    msgspec.Meta(description="A text, texts, token ids, or rows of token ids; one kind."),
]
Dimensions = Annotated[
    int, msgspec.Meta(ge=1, description="Sizes that the model was trained for; else 400.")
]
ModelName = Annotated[
    Annotated[str, msgspec.Meta(min_length=1)] | None,
    msgspec.Meta(description="Left out: the gateway's default model, or the only one."),
]


class EmbeddingsRequest(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """`POST /v1/embeddings`; the fields behind `user` are extensions.

    OpenAI requires `model`. Here it may be left out, and null stands for a field left out.
    """

    input: Texts
    model: ModelName = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Dimensions | None = None
    user: str | None = None
    prompt_name: str | None = None
    input_type: str | None = None
    instruction: str | None = None
    truncate: bool | None = None
    priority: Literal["interactive", "bulk"] | None = None


def error_body(refusal: Refusal) -> dict[str, Any]:
    """An error as OpenAI writes it."""
    return {
        "error": {
            "message": str(refusal),
            "type": refusal.kind.type,
            "param": refusal.param,
            "code": refusal.kind.code,
        }
    }


def error_response(refusal: Refusal, body: dict[str, Any] | None = None) -> Response:
    """The answer that carries an error; `body` is another dialect's."""
    return Response(
        dumps(error_body(refusal) if body is None else body),
        status_code=refusal.kind.status,
        headers=refusal.headers,
        media_type="application/json",
    )


def model_object(model: ServedModel, *, name: str | None = None) -> dict[str, Any]:
    """A model as OpenAI lists it, with what the exporter's card says beside.

    Args:
        model: The model.
        name: Name that it is asked for by; None for its own.
    """
    card = model.card
    return {
        "id": name or model.name,
        "object": "model",
        "created": model.since,
        "owned_by": "lasttoken",
        "dimensions": model.dimensions,
        "max_length": card.get("max_length"),
        "prompts": list(model.prompts),
        "matryoshka": card.get("matryoshka"),
        "licence": (card.get("licence") or {}).get("id"),
        "revision": card.get("revision"),
        "precision": card.get("precision"),
    }

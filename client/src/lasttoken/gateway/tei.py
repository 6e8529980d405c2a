"""text-embeddings-inference's `POST /embed` (also at `/`, as there) and `GET /info`.

Source: https://huggingface.github.io/text-embeddings-inference/
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import metadata
from typing import Annotated, Any, Literal

import msgspec

from lasttoken.gateway.dialect import Dialect, inputs_of, number_rows_schema
from lasttoken.gateway.embedding_core import Embedded, EmbedJob
from lasttoken.gateway.exchange import Exchange
from lasttoken.gateway.openai_shapes import Dimensions, Texts
from lasttoken.gateway.prompt_choice import PromptChoice
from lasttoken.gateway.refusals import Refusal, invalid
from lasttoken.gateway.served_models import ServedModel
from lasttoken.gateway.settings import GatewaySettings
from lasttoken.gateway.vector_json import array_pieces

_ERROR_TYPES = {400: "Validation", 413: "Validation", 422: "Validation", 429: "Overloaded"}


class TeiRequest(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A request of TEI's."""

    inputs: Texts
    truncate: bool | None = None
    truncation_direction: Literal["left", "right", "Left", "Right"] = "right"
    prompt_name: str | None = None
    normalize: Annotated[
        bool | None, msgspec.Meta(description="Vectors are always normalised; false gives 400.")
    ] = None
    dimensions: Dimensions | None = None


def _job(payload: TeiRequest) -> EmbedJob:
    if payload.normalize is False:
        raise invalid("normalize is false; vectors are always normalised here", param="normalize")
    if payload.truncation_direction.lower() == "left":
        raise invalid(
            "truncation_direction is left; texts are cut at their end only",
            param="truncation_direction",
        )
    return EmbedJob(
        inputs=inputs_of(payload.inputs, param="inputs"),
        model=None,
        prompt=PromptChoice(prompt_name=payload.prompt_name),
        dimensions=payload.dimensions,
        refuse_long=payload.truncate is False,
    )


def _answer(payload: TeiRequest, embedded: Embedded, exchange: Exchange) -> Iterator[bytes]:  # noqa: ARG001
    return array_pieces(embedded.vectors, lambda _, row: row, before=b"", after=b"")


def _error(refusal: Refusal, exchange: Exchange) -> dict[str, Any]:  # noqa: ARG001
    kind = _ERROR_TYPES.get(refusal.kind.status, "Backend")
    return {"error": str(refusal), "error_type": kind}


def info_object(model: ServedModel, settings: GatewaySettings) -> dict[str, Any]:
    """What TEI's `/info` says, for a model of ours."""
    card = model.card
    return {
        "model_id": model.name,
        "model_sha": card.get("revision"),
        "model_dtype": card.get("precision"),
        "model_type": {"embedding": {"pooling": card.get("pooling")}},
        "max_concurrent_requests": settings.max_in_flight,
        "max_input_length": card.get("max_length"),
        "max_client_batch_size": settings.max_texts,
        "auto_truncate": True,
        "version": metadata.version("lasttoken"),
    }


_SETTINGS: dict[str, Any] = {
    "summary": "text-embeddings-inference's embed",
    "payload": TeiRequest,
    "job": _job,
    "answer": _answer,
    "error": _error,
    "answer_schema": number_rows_schema(),
    "error_schema": {
        "type": "object",
        "required": ["error", "error_type"],
        "properties": {"error": {"type": "string"}, "error_type": {"type": "string"}},
    },
}
TEI = Dialect(path="/embed", **_SETTINGS)
TEI_AT_ROOT = Dialect(path="/", hidden=True, **_SETTINGS)

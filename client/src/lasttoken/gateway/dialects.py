"""All dialects, and the shape of an error where no route of theirs has been reached."""

from __future__ import annotations

from starlette.responses import Response

from lasttoken.gateway.cohere import COHERE
from lasttoken.gateway.dialect import Dialect
from lasttoken.gateway.exchange import Exchange
from lasttoken.gateway.ollama import OLLAMA, OLLAMA_ONE_TEXT
from lasttoken.gateway.openai_embeddings import OPENAI
from lasttoken.gateway.openai_shapes import error_response
from lasttoken.gateway.refusals import Refusal
from lasttoken.gateway.tei import TEI, TEI_AT_ROOT

DIALECTS = (OPENAI, TEI, TEI_AT_ROOT, OLLAMA, OLLAMA_ONE_TEXT, COHERE)


def dialect_of(path: str) -> Dialect:
    """The dialect whose clients ask for a path: its own, or one beside it; OpenAI's else."""
    for dialect in DIALECTS:
        if path == dialect.path:
            return dialect
    beside = (
        dialect
        for dialect in DIALECTS
        if (folder := _folder(dialect.path)) != "/" and path.startswith(folder)
    )
    return next(beside, OPENAI)


def error_at(path: str, refusal: Refusal, exchange: Exchange) -> Response:
    """The answer that carries an error, in the shape that clients of a path read."""
    return error_response(refusal, dialect_of(path).error(refusal, exchange))


def _folder(path: str) -> str:
    return path[: path.rindex("/") + 1]

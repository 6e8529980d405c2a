"""The model that a command takes where `--model` names none: the only one that is served."""

from __future__ import annotations

from typing import Any

from lasttoken.client import EmbeddingClient
from lasttoken.errors import InvalidInput, ModelUnavailable


def only_model(connection: dict[str, Any], *, timeout_s: float = 10.0) -> str:
    """Ask a server for its only model.

    Args:
        connection: Arguments of `EmbeddingClient`, apart from the model.
        timeout_s: Time for each question, in seconds.

    Returns:
        Triton's name of the ensemble.

    Raises:
        InvalidInput: There are several; one must be named.
        ModelUnavailable: There is none, or nobody answers.
        LasttokenError: The server could not be asked.
    """
    with EmbeddingClient(**connection) as client:
        names = [model.name for model in client.list_models(timeout_s=timeout_s) if model.ready]
    if len(names) > 1:
        raise InvalidInput(f"{connection['url']} serves {', '.join(names)}; name one with --model")
    if not names:
        raise ModelUnavailable(
            f"{connection['url']} serves no text-embedding model that is ready; `lasttoken models` "
            "lists what is there"
        )
    return names[0]

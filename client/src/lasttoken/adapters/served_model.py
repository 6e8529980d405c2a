"""A served model with its two sides, queries and documents, sync and async."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, Literal
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from lasttoken.async_client import AsyncEmbeddingClient
from lasttoken.client import EmbeddingClient
from lasttoken.embeddings import ModelInfo
from lasttoken.encode_call import PROMPTS_OF_DOCUMENTS, PROMPTS_OF_QUERIES
from lasttoken.errors import InvalidInput
from lasttoken.options import ClientOptions, Priority

Side = Literal["query", "document"]

_PROMPTS_OF_SIDE: dict[Side, tuple[str, ...]] = {
    "query": PROMPTS_OF_QUERIES,
    "document": PROMPTS_OF_DOCUMENTS,
}
"""Names that models give their prompts of each side."""


_CLIENT_OPTIONS = frozenset(f.name for f in fields(ClientOptions)) - {"url", "model"}
"""Arguments of the clients that an adapter passes on."""

_OF_QUERIES: Priority = "interactive"
_OF_EVERY_CALL = ("timeout_s", "dimensions", "force_dimensions")


def prompt_of_side(info: ModelInfo, side: Side) -> str | None:
    """The prompt that a model has for queries or documents; None where it has none.

    Args:
        info: The model; its card lists its prompts.
        side: Which of the two.
    """
    prompts = (info.card or {}).get("prompts", [])
    return next((name for name in _PROMPTS_OF_SIDE[side] if name in prompts), None)


class ServedModel:
    """Connections to one served model, made when they are first used; threads may share it.

    An async client belongs to its event loop, so each loop gets one. A copy or a pickle has the
    settings and makes connections of its own.
    """

    _sync: EmbeddingClient | None
    _async: WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncEmbeddingClient]

    def __init__(
        self,
        url: str,
        model: str,
        *,
        query_prompt_name: str | None = None,
        query_instruction: str | None = None,
        document_prompt_name: str | None = None,
        dimensions: int | None = None,
        force_dimensions: bool = False,
        timeout_s: float = 60.0,
        document_priority: Priority = "interactive",
        client_options: Mapping[str, Any] | None = None,
    ) -> None:
        """Describe the model; nothing is connected.

        Args:
            url: `host:port` of Triton's gRPC service.
            model: Triton's name of the ensemble.
            query_prompt_name: Prompt of queries; None takes the model's own, where it has one.
            query_instruction: What queries search for, in place of their prompt.
            document_prompt_name: Prompt of documents; None takes the model's own.
            dimensions: Cut vectors to a size that the model was trained for; None keeps all.
            force_dimensions: Cut to any size all the same.
            timeout_s: Time for each call, in seconds.
            document_priority: The server's queue for documents: `"bulk"` lets queries pass them.
            client_options: More arguments for the clients, such as `headers`.

        Raises:
            InvalidInput: Both a prompt and an instruction for queries, or an argument that the
                clients do not take.
        """
        if document_priority not in (_OF_QUERIES, "bulk"):
            raise InvalidInput(
                f"document_priority is {document_priority!r}; use 'interactive' or 'bulk'"
            )
        if query_prompt_name is not None and query_instruction is not None:
            raise InvalidInput("give query_prompt_name or query_instruction, not both")
        self._settings: dict[str, Any] = {
            "url": url,
            "model": model,
            "query_prompt_name": query_prompt_name,
            "query_instruction": query_instruction,
            "document_prompt_name": document_prompt_name,
            "dimensions": dimensions,
            "force_dimensions": force_dimensions,
            "timeout_s": timeout_s,
            "document_priority": document_priority,
            "client_options": dict(client_options or {}),
        }
        unknown = self._settings["client_options"].keys() - _CLIENT_OPTIONS
        if unknown:
            raise InvalidInput(
                f"there is no argument {', '.join(map(repr, sorted(unknown)))}; EmbeddingClient "
                f"takes {', '.join(sorted(_CLIENT_OPTIONS))}"
            )
        ClientOptions(**_without_none(self._client_arguments()))  # wrong values now, not later
        self._forget_connections()

    def embed(self, texts: Sequence[str], side: Side) -> npt.NDArray[np.float32]:
        """Embed texts of one side, `[n, D]`.

        Raises:
            LasttokenError: As `EmbeddingClient.embed`.
        """
        rows = _rows(texts)
        client = self.client()
        info = client._known_info(self._settings["timeout_s"])
        return client.embed(rows, **self._arguments(info, side))

    async def aembed(self, texts: Sequence[str], side: Side) -> npt.NDArray[np.float32]:
        """Embed texts of one side without blocking, `[n, D]`.

        Raises:
            LasttokenError: As `AsyncEmbeddingClient.embed`.
        """
        rows = _rows(texts)
        client = self.async_client()
        info = await client._known_info(self._settings["timeout_s"])
        return await client.embed(rows, **self._arguments(info, side))

    def client(self) -> EmbeddingClient:
        """The sync client."""
        with self._lock:
            if self._sync is None:
                self._sync = EmbeddingClient(**self._client_arguments())
            return self._sync

    def async_client(self) -> AsyncEmbeddingClient:
        """The async client of the running event loop."""
        loop = asyncio.get_running_loop()
        with self._lock:
            if loop not in self._async:
                self._async[loop] = AsyncEmbeddingClient(**self._client_arguments())
            return self._async[loop]

    def close(self) -> None:
        """Close the sync connection; it is made again when it is needed again."""
        with self._lock:
            client, self._sync = self._sync, None
        if client is not None:
            client.close()

    async def aclose(self) -> None:
        """Close the async connection of the running event loop."""
        with self._lock:
            client = self._async.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.close()

    def __getstate__(self) -> dict[str, Any]:
        return self._settings

    def __setstate__(self, settings: dict[str, Any]) -> None:
        self._settings = settings
        self._forget_connections()

    def _forget_connections(self) -> None:
        self._lock = threading.Lock()
        self._sync = None
        self._async = WeakKeyDictionary()

    def _client_arguments(self) -> dict[str, Any]:
        settings = self._settings
        return {"url": settings["url"], "model": settings["model"], **settings["client_options"]}

    def _arguments(self, info: ModelInfo, side: Side) -> dict[str, Any]:
        settings = self._settings
        arguments = {name: settings[name] for name in _OF_EVERY_CALL}
        arguments["priority"] = settings["document_priority"] if side == "document" else _OF_QUERIES
        if side == "query" and settings["query_instruction"] is not None:
            return {**arguments, "instruction": settings["query_instruction"]}
        prompt_name = settings[f"{side}_prompt_name"]
        if prompt_name is None:
            prompt_name = prompt_of_side(info, side)
        return {**arguments, "prompt_name": prompt_name}


def _rows(texts: Sequence[str]) -> list[str]:
    if isinstance(texts, str):
        raise InvalidInput(f"texts is the string {texts[:80]!r}; give a list of texts: [text]")
    return list(texts)


def _without_none(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The clients take None for their defaults, where their options have the default itself."""
    return {name: value for name, value in arguments.items() if value is not None}

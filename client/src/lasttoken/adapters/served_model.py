"""A served model with its two sides, queries and documents, sync and async."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Literal
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from lasttoken.async_client import AsyncEmbeddingClient
from lasttoken.client import EmbeddingClient
from lasttoken.embeddings import ModelInfo
from lasttoken.errors import InvalidInput
from lasttoken.options import Priority

Side = Literal["query", "document"]

_PROMPTS_OF_SIDE: dict[Side, tuple[str, ...]] = {
    "query": ("query", "search_query"),
    "document": ("document", "search_document", "passage"),
}
"""Names that models give their prompts of each side."""


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

    _info: ModelInfo | None
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
        timeout_s: float = 60.0,
        priority: Priority = "interactive",
        client_options: Mapping[str, Any] | None = None,
    ) -> None:
        """Describe the model; nothing is connected.

        Args:
            url: `host:port` of Triton's gRPC service.
            model: Triton's name of the ensemble.
            query_prompt_name: Prompt of queries; None takes the model's own, where it has one.
            query_instruction: What queries search for, in place of their prompt.
            document_prompt_name: Prompt of documents; None takes the model's own.
            timeout_s: Time for each call, in seconds.
            priority: The server's queue for these calls.
            client_options: More arguments for the clients, such as `headers`.

        Raises:
            InvalidInput: Both a prompt and an instruction for queries.
        """
        if query_prompt_name is not None and query_instruction is not None:
            raise InvalidInput("give query_prompt_name or query_instruction, not both")
        self._settings: dict[str, Any] = {
            "url": url,
            "model": model,
            "query_prompt_name": query_prompt_name,
            "query_instruction": query_instruction,
            "document_prompt_name": document_prompt_name,
            "timeout_s": timeout_s,
            "priority": priority,
            "client_options": dict(client_options or {}),
        }
        self._forget_connections()

    def embed(self, texts: Sequence[str], side: Side) -> npt.NDArray[np.float32]:
        """Embed texts of one side, `[n, D]`.

        Raises:
            LasttokenError: As `EmbeddingClient.embed`.
        """
        client = self.client()
        if self._info is None:
            self._info = client.model_info(timeout_s=self._settings["timeout_s"])
        return client.embed(list(texts), **self._arguments(self._info, side))

    async def aembed(self, texts: Sequence[str], side: Side) -> npt.NDArray[np.float32]:
        """Embed texts of one side without blocking, `[n, D]`.

        Raises:
            LasttokenError: As `AsyncEmbeddingClient.embed`.
        """
        client = self.async_client()
        if self._info is None:
            self._info = await client.model_info(timeout_s=self._settings["timeout_s"])
        return await client.embed(list(texts), **self._arguments(self._info, side))

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
        self._info = None
        self._sync = None
        self._async = WeakKeyDictionary()

    def _client_arguments(self) -> dict[str, Any]:
        settings = self._settings
        return {"url": settings["url"], "model": settings["model"], **settings["client_options"]}

    def _arguments(self, info: ModelInfo, side: Side) -> dict[str, Any]:
        settings = self._settings
        arguments = {"timeout_s": settings["timeout_s"], "priority": settings["priority"]}
        if side == "query" and settings["query_instruction"] is not None:
            return {**arguments, "instruction": settings["query_instruction"]}
        prompt_name = settings[f"{side}_prompt_name"]
        if prompt_name is None:
            prompt_name = prompt_of_side(info, side)
        return {**arguments, "prompt_name": prompt_name}

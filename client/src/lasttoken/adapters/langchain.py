"""LangChain: a served model as `langchain_core.embeddings.Embeddings`.

::

    from lasttoken.adapters.langchain import LasttokenEmbeddings

    embeddings = LasttokenEmbeddings("sfr_embedding_mistral", url="127.0.0.1:8001")
    store = InMemoryVectorStore(embeddings)
"""

from __future__ import annotations

from typing import Any

from lasttoken.adapters.served_model import ServedModel
from lasttoken.errors import LasttokenError
from lasttoken.options import Priority

try:
    from langchain_core.embeddings import Embeddings
except ModuleNotFoundError as error:
    raise LasttokenError(
        "this adapter needs langchain-core: pip install 'lasttoken[langchain]'"
    ) from error


class LasttokenEmbeddings(Embeddings):  # type: ignore[misc] # langchain-core is optional to lint
    """Embeds queries and documents, each with the model's own prompt for it.

    The async methods use an async connection, not threads.
    """

    def __init__(
        self,
        model: str,
        *,
        url: str = "127.0.0.1:8001",
        query_prompt_name: str | None = None,
        query_instruction: str | None = None,
        document_prompt_name: str | None = None,
        dimensions: int | None = None,
        force_dimensions: bool = False,
        document_priority: Priority = "interactive",
        timeout_s: float = 60.0,
        **client_options: Any,
    ) -> None:
        """Describe the model; the first call connects.

        Args:
            model: Triton's name of the ensemble.
            url: `host:port` of Triton's gRPC service.
            query_prompt_name: Prompt of queries; None takes the model's own, where it has one.
            query_instruction: What queries search for, in place of their prompt.
            document_prompt_name: Prompt of documents; None takes the model's own.
            dimensions: Cut vectors to a size that the model was trained for; None keeps all.
            force_dimensions: Cut to any size all the same.
            document_priority: `"bulk"` lets queries pass documents in the server's queue.
            timeout_s: Time for each call, in seconds.
            client_options: More arguments of `lasttoken.EmbeddingClient`, such as `headers`.

        Raises:
            InvalidInput: Both a prompt and an instruction for queries, or an argument that the
                client does not take.
        """
        self._served = ServedModel(
            url,
            model,
            query_prompt_name=query_prompt_name,
            query_instruction=query_instruction,
            document_prompt_name=document_prompt_name,
            dimensions=dimensions,
            force_dimensions=force_dimensions,
            document_priority=document_priority,
            timeout_s=timeout_s,
            client_options=client_options,
        )

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Embed documents.

        Raises:
            LasttokenError: As `lasttoken.EmbeddingClient.embed`.
        """
        vectors: list[list[float]] = self._served.embed(texts, "document").tolist()
        return vectors

    def embed_query(self, text: str) -> list[float]:
        """Embed a query.

        Raises:
            LasttokenError: As `lasttoken.EmbeddingClient.embed`.
        """
        vector: list[float] = self._served.embed([text], "query")[0].tolist()
        return vector

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """Embed documents without blocking the event loop."""
        vectors: list[list[float]] = (await self._served.aembed(texts, "document")).tolist()
        return vectors

    async def aembed_query(self, text: str) -> list[float]:
        """Embed a query without blocking the event loop."""
        vector: list[float] = (await self._served.aembed([text], "query"))[0].tolist()
        return vector

    def close(self) -> None:
        """Close the sync connection."""
        self._served.close()

    async def aclose(self) -> None:
        """Close the async connection of the running event loop."""
        await self._served.aclose()

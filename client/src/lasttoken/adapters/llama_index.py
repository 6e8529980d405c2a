"""LlamaIndex: a served model as `BaseEmbedding`.

::

    from lasttoken.adapters.llama_index import LasttokenEmbedding

    Settings.embed_model = LasttokenEmbedding(model_name="sfr_embedding_mistral")
"""

from __future__ import annotations

from typing import Any, Literal

from lasttoken.adapters.served_model import ServedModel
from lasttoken.errors import LasttokenError

try:
    from llama_index.core.base.embeddings.base import BaseEmbedding
    from llama_index.core.bridge.pydantic import ConfigDict, Field, PrivateAttr
except ModuleNotFoundError as error:
    raise LasttokenError(
        "this adapter needs llama-index-core: pip install 'lasttoken[llama-index]'"
    ) from error


class LasttokenEmbedding(BaseEmbedding):  # type: ignore[misc] # llama-index is optional to lint
    """Embeds queries and texts, each with the model's own prompt for it.

    The async methods use an async connection, not threads. `embed_batch_size` texts go out in one
    call, which the client splits into requests of similar lengths.
    """

    model_config = ConfigDict(extra="forbid")  # a field that is not known would do nothing

    model_name: str = Field(description="Triton's name of the ensemble.")
    url: str = Field(default="127.0.0.1:8001", description="host:port of Triton's gRPC service.")
    query_prompt_name: str | None = Field(
        default=None, description="Prompt of queries; None takes the model's own."
    )
    query_instruction: str | None = Field(
        default=None, description="What queries search for, in place of their prompt."
    )
    text_prompt_name: str | None = Field(
        default=None, description="Prompt of texts; None takes the model's own."
    )
    dimensions: int | None = Field(
        default=None,
        gt=0,
        description="Cut vectors to a size that the model was trained for; None keeps all.",
    )
    force_dimensions: bool = Field(default=False, description="Cut to any size all the same.")
    text_priority: Literal["interactive", "bulk"] = Field(
        default="interactive",
        description="'bulk' lets queries pass texts in the server's queue.",
    )
    timeout_s: float = Field(default=60.0, gt=0, description="Time for each call, in seconds.")
    client_options: dict[str, Any] = Field(
        default_factory=dict,
        exclude=True,
        description="More arguments of lasttoken.EmbeddingClient, such as headers.",
    )
    embed_batch_size: int = Field(default=256, gt=0, le=2048, description="Texts of one call.")

    _model: ServedModel = PrivateAttr()
    _model_of: dict[str, Any] = PrivateAttr()

    def model_post_init(self, context: Any, /) -> None:
        """Check the fields and make the connections' owner; the first call connects."""
        super().model_post_init(context)
        self._model_of = self._arguments()
        self._model = ServedModel(**self._model_of)

    @property
    def _served(self) -> ServedModel:
        """The connections' owner; a new one where a field was changed since."""
        arguments = self._arguments()
        if arguments != self._model_of:
            self._model, self._model_of = ServedModel(**arguments), arguments
        return self._model

    def _arguments(self) -> dict[str, Any]:
        return {
            "url": self.url,
            "model": self.model_name,
            "query_prompt_name": self.query_prompt_name,
            "query_instruction": self.query_instruction,
            "document_prompt_name": self.text_prompt_name,
            "dimensions": self.dimensions,
            "force_dimensions": self.force_dimensions,
            "document_priority": self.text_priority,
            "timeout_s": self.timeout_s,
            "client_options": dict(self.client_options),
        }

    @classmethod
    def class_name(cls) -> str:
        """Name in LlamaIndex's stored settings."""
        return "LasttokenEmbedding"

    def close(self) -> None:
        """Close the sync connection."""
        self._served.close()

    async def aclose(self) -> None:
        """Close the async connection of the running event loop."""
        await self._served.aclose()

    def _get_query_embedding(self, query: str) -> list[float]:
        vector: list[float] = self._served.embed([query], "query")[0].tolist()
        return vector

    async def _aget_query_embedding(self, query: str) -> list[float]:
        vector: list[float] = (await self._served.aembed([query], "query"))[0].tolist()
        return vector

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return (await self._aget_text_embeddings([text]))[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        vectors: list[list[float]] = self._served.embed(texts, "document").tolist()
        return vectors

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        vectors: list[list[float]] = (await self._served.aembed(texts, "document")).tolist()
        return vectors

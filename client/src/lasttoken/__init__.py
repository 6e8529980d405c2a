"""lasttoken: text embeddings from NVIDIA Triton, without padding.

::

    from lasttoken import EmbeddingClient

    with EmbeddingClient("127.0.0.1:8001", "sfr_embedding_mistral") as client:
        vectors = client.embed(["a text", "another"], prompt_name="query")

The server of this machine is in `lasttoken.local`, which is imported on its own.
"""

from __future__ import annotations

import typing

from lasttoken.client import EmbeddingClient
from lasttoken.embeddings import Embeddings, ModelInfo, ServerInfo
from lasttoken.errors import (
    AuthenticationFailed,
    DeadlineExceeded,
    InputTooLong,
    InstallationFailed,
    InvalidInput,
    LasttokenError,
    LocalServerError,
    ModelNotFound,
    ModelUnavailable,
    PermissionRefused,
    ProtocolMismatch,
    RepositoryInvalid,
    RequestCancelled,
    ServerError,
    ServerOverloaded,
    ServerStartFailed,
    ServerStopped,
    TlsFailed,
    TruncationWarning,
    UnsupportedPlatform,
)
from lasttoken.options import ClientOptions, RetryPolicy
from lasttoken.quantization import quantize
from lasttoken.security import KeepAlive, Tls
from lasttoken.similarity import similarity, similarity_pairwise

if typing.TYPE_CHECKING:
    from lasttoken.async_client import AsyncEmbeddingClient

__all__ = [
    "AsyncEmbeddingClient",
    "AuthenticationFailed",
    "ClientOptions",
    "DeadlineExceeded",
    "EmbeddingClient",
    "Embeddings",
    "InputTooLong",
    "InstallationFailed",
    "InvalidInput",
    "KeepAlive",
    "LasttokenError",
    "LocalServerError",
    "ModelInfo",
    "ModelNotFound",
    "ModelUnavailable",
    "PermissionRefused",
    "ProtocolMismatch",
    "RepositoryInvalid",
    "RequestCancelled",
    "RetryPolicy",
    "ServerError",
    "ServerInfo",
    "ServerOverloaded",
    "ServerStartFailed",
    "ServerStopped",
    "Tls",
    "TlsFailed",
    "TruncationWarning",
    "UnsupportedPlatform",
    "quantize",
    "similarity",
    "similarity_pairwise",
]


def __getattr__(name: str) -> object:
    """Import the asynchronous client when it is asked for: asyncio is a fifth of the import."""
    if name != "AsyncEmbeddingClient":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from lasttoken.async_client import AsyncEmbeddingClient

    globals()[name] = AsyncEmbeddingClient
    return AsyncEmbeddingClient

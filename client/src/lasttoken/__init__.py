"""lasttoken: text embeddings from NVIDIA Triton, without padding.

::

    from lasttoken import EmbeddingClient

    with EmbeddingClient("127.0.0.1:8001", "sfr_embedding_mistral") as client:
        vectors = client.embed(["a text", "another"], prompt_name="query")

The server of this machine is in `lasttoken.local`, which is imported on its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

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
from lasttoken.security import KeepAlive, Tls

if TYPE_CHECKING:
    from lasttoken.async_client import AsyncEmbeddingClient
    from lasttoken.client import EmbeddingClient
    from lasttoken.cosine import similarity, similarity_pairwise
    from lasttoken.embeddings import Embeddings, ModelInfo, ServerInfo
    from lasttoken.quantization import quantize

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


# Imported when first asked for (PEP 562): numpy takes most of their time, asyncio the rest.
_MODULES = {
    "AsyncEmbeddingClient": "async_client",
    "EmbeddingClient": "client",
    "Embeddings": "embeddings",
    "ModelInfo": "embeddings",
    "ServerInfo": "embeddings",
    "quantize": "quantization",
    "similarity": "cosine",
    "similarity_pairwise": "cosine",
}


def __getattr__(name: str) -> object:
    """Import the module of a name that needs numpy, once."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value: object = getattr(import_module(f"lasttoken.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

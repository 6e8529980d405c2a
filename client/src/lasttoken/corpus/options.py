"""What a corpus run is told, validated where it is made."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from lasttoken.errors import InvalidInput
from lasttoken.security import Tls, Token

VectorDtype = Literal["float32", "float16"]
OnRefused = Literal["fail", "null"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusOptions:
    """One run of `embed_corpus`.

    Attributes:
        inputs: Parquet files, patterns of their names, or folders that are searched for
            `*.parquet`: paths, or URLs of any file system that pyarrow or fsspec knows.
        output: Folder for the parts: a path or a URL.
        model: Triton's name of the ensemble.
        urls: `host:port` of each Triton server's gRPC service.
        text_column: Column with the texts; where it is null, so is the vector.
        columns: Columns that are copied beside the vectors; None copies all.
        vector_column: Name of the column of vectors.
        vector_dtype: Type of their elements.
        dimensions: Keep so many elements of each vector and normalise again; None keeps all.
            Refused for sizes that the model was not trained for.
        force_dimensions: Cut to any size all the same.
        prompt_name: One of the model's prompts; None for its default.
        instruction: What the texts are searched for, in place of a prompt.
        rows_per_part: Rows of each part but the last of a file; None chooses 128 MB of vectors, at
            most 32,768 rows.
        compression: Parquet codec.
        on_refused: What happens with a text that the server refuses: `"fail"` ends the run,
            `"null"` gives it a null vector.
        server_wait_s: How long to go on without one answer from any server, in seconds.
        max_in_flight: Most requests that are with one server at a time; fewer while it says that it
            is overloaded.
        max_texts_per_request: Most texts of one request.
        resume: Continue what is in `output`, instead of refusing to write there.
        tls: Encrypts the connections; workers of a Ray cluster read its files themselves.
        token: Bearer token of every call; for a Ray cluster a string, or a function that it can
            pickle.
        headers: gRPC metadata of every call.
    """

    inputs: tuple[str, ...]
    output: str
    model: str
    urls: tuple[str, ...] = ("127.0.0.1:8001",)
    text_column: str = "text"
    columns: tuple[str, ...] | None = None
    vector_column: str = "embedding"
    vector_dtype: VectorDtype = "float32"
    dimensions: int | None = None
    force_dimensions: bool = False
    prompt_name: str | None = None
    instruction: str | None = None
    rows_per_part: int | None = None
    compression: str = "zstd"
    on_refused: OnRefused = "fail"
    server_wait_s: float = 300.0
    max_in_flight: int = 64
    max_texts_per_request: int = 64
    resume: bool = False
    tls: Tls | None = None
    token: Token | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        for name in ("inputs", "urls"):
            if not getattr(self, name) or isinstance(getattr(self, name), str):
                raise InvalidInput(
                    f"{name} is {getattr(self, name)!r}; give at least one, in a tuple"
                )
        for name in ("output", "model", "text_column", "vector_column"):
            if not getattr(self, name):
                raise InvalidInput(f"{name} is {getattr(self, name)!r}; it must not be empty")
        _choice("vector_dtype", self.vector_dtype, ("float32", "float16"))
        _choice("on_refused", self.on_refused, ("fail", "null"))
        _choice("compression", self.compression, ("zstd", "snappy", "lz4", "none"))
        for name in ("rows_per_part", "dimensions", "max_in_flight", "max_texts_per_request"):
            value = getattr(self, name)
            if name in ("rows_per_part", "dimensions") and value is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise InvalidInput(f"{name} is {value!r}; it must be a whole number above 0")
        if not (math.isfinite(self.server_wait_s) and self.server_wait_s > 0):
            raise InvalidInput(f"server_wait_s is {self.server_wait_s!r}; it must be positive")
        if self.prompt_name is not None and self.instruction is not None:
            raise InvalidInput("give prompt_name or instruction, not both")

    def client_settings(self) -> dict[str, Any]:
        """How every client of this run reaches its server."""
        return {"tls": self.tls, "token": self.token, "headers": dict(self.headers)}

    def embed_settings(self) -> dict[str, Any]:
        """What every call of this run asks for."""
        return {
            "prompt_name": self.prompt_name,
            "instruction": self.instruction,
            "dimensions": self.dimensions,
            "force_dimensions": self.force_dimensions,
        }


def _choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise InvalidInput(f"{name} is {value!r}; use one of {', '.join(map(repr, allowed))}")

"""What a client hands back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Embeddings:
    """Vectors with what the server said about their texts.

    For a list of n texts the shapes are [n, D], [n] and [n]; for a single string [D], [] and [].

    Attributes:
        vectors: float32, L2-normalised by the model, unless the call asked for another form.
        token_counts: int32, tokens computed for each text, special tokens and prompt included.
        truncated: bool, whether the text was longer than the model's maximum and was cut.
    """

    vectors: npt.NDArray[Any]
    token_counts: npt.NDArray[np.int32]
    truncated: npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """One text-embedding model of a server.

    Attributes:
        name: Triton's name of the ensemble.
        version: Triton's version of it.
        ready: Whether it takes requests.
        dimensions: Length of its vectors; None while it is not ready.
        card: What the exporter recorded: model, source, revision, licence, precision, checks and
            more; None while it is not ready, or where the model has none.
    """

    name: str
    version: str
    ready: bool
    dimensions: int | None
    card: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerInfo:
    """A Triton server.

    Attributes:
        name: What it calls itself, `"triton"`.
        version: Its version, such as `"2.51.0"`.
        extensions: Extensions of the protocol that it offers.
        live: Whether it answers.
        ready: Whether all its models are loaded.
    """

    name: str
    version: str
    extensions: tuple[str, ...]
    live: bool
    ready: bool

"""What is sent: texts of a named distribution, described so that others can send the same."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lasttoken import EmbeddingClient
from lasttoken_perf.corpus import texts_of
from lasttoken_perf.serving import Serving

_CALL_TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Workload:
    """Texts, and what a server says of some of them when they are alone.

    Attributes:
        distribution: Name of the lengths.
        seed: Decides the texts.
        texts: The texts.
        known: Vector of each known text, alone.
    """

    distribution: str
    seed: int
    texts: list[str]
    known: dict[str, NDArray[np.float32]]

    def describe(self, token_counts: Sequence[int] = ()) -> dict[str, Any]:
        """Return a result's ``workload``.

        Args:
            token_counts: Tokens of each text, where they are known.
        """
        description = {
            "distribution": self.distribution,
            "seed": self.seed,
            "texts": len(self.texts),
            "sha256": hashlib.sha256("\0".join(self.texts).encode()).hexdigest(),
        }
        if len(token_counts):
            description["tokens"] = int(np.sum(token_counts))
            description["token_lengths"] = length_percentiles(token_counts)
        return description


def make_workload(
    serving: Serving, distribution: str, *, texts: int, seed: int, known: int = 16
) -> Workload:
    """Make the texts and embed some of them one at a time, which also warms the server.

    Args:
        serving: The server.
        distribution: Name of the lengths.
        texts: How many.
        seed: Decides the texts.
        known: How many are embedded alone.

    Raises:
        UnknownWorkload: There is no distribution of that name.
    """
    drawn = texts_of(distribution, texts, seed=seed)
    with EmbeddingClient(serving.url, serving.triton_name) as client:
        alone = {
            text: client.embed(text, timeout_s=_CALL_TIMEOUT_S)
            for text in drawn[:: max(1, texts // known)]
        }
    return Workload(distribution=distribution, seed=seed, texts=drawn, known=alone)


def length_percentiles(token_counts: Sequence[int]) -> dict[str, float]:
    """Return percentiles of lengths in tokens."""
    return {f"p{p}": float(np.percentile(token_counts, p)) for p in (0, 10, 50, 90, 99, 100)}

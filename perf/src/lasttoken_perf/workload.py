"""What is sent: texts of a named distribution, described so that others can send the same."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
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
        counted: Of each text that was answered: its tokens, and whether the model cut it.
    """

    distribution: str
    seed: int
    texts: list[str]
    known: dict[str, NDArray[np.float32]]
    counted: dict[str, tuple[int, bool]] = field(default_factory=dict)

    def count(
        self, texts: Sequence[str], token_counts: NDArray[Any], truncated: NDArray[np.bool_]
    ) -> None:
        """Keep what the server says of texts that it answered.

        Args:
            texts: The texts.
            token_counts: ``[n]``, whole numbers.
            truncated: ``[n]``, whether it cut them.
        """
        for text, tokens, cut in zip(texts, token_counts, truncated, strict=True):
            self.counted[text] = (int(tokens), bool(cut))

    def describe(self) -> dict[str, Any]:
        """Return a result's ``workload``; tokens and lengths are those of the counted texts."""
        description: dict[str, Any] = {
            "distribution": self.distribution,
            "seed": self.seed,
            "texts": len(self.texts),
            "sha256": hashlib.sha256("\0".join(self.texts).encode()).hexdigest(),
        }
        counted = [self.counted[text] for text in self.texts if text in self.counted]
        if counted:
            token_counts = [tokens for tokens, _ in counted]
            description |= {
                "counted_texts": len(counted),
                "tokens": sum(token_counts),
                "token_lengths": length_percentiles(token_counts),
                "truncated_texts": sum(cut for _, cut in counted),
            }
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
            text: client.embed_full(text, timeout_s=_CALL_TIMEOUT_S)
            for text in drawn[:: max(1, texts // known)]
        }
    return Workload(
        distribution=distribution,
        seed=seed,
        texts=drawn,
        known={text: answer.vectors for text, answer in alone.items()},
        counted={
            text: (int(answer.token_counts), bool(answer.truncated))
            for text, answer in alone.items()
        },
    )


def length_percentiles(token_counts: Sequence[int]) -> dict[str, float]:
    """Return percentiles of lengths in tokens."""
    return {f"p{p}": float(np.percentile(token_counts, p)) for p in (0, 10, 50, 90, 99, 100)}

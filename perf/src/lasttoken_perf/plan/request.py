"""What is planned for: a model, its texts, a load and an objective."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lasttoken_perf.errors import InvalidPlan
from lasttoken_perf.plan.storage import STORAGES

PUBLISHED_EFFICIENCY = 0.46
"""Share of an H100's dense bf16 operations in the one published figure of a model of this size.

33,000 tokens/s of Qwen3-Embedding-8B at 13.89 GFLOP a token over 989 TFLOP/s.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextLengths:
    """Lengths of the texts in tokens, prompt and special tokens included.

    Attributes:
        mean: Mean length.
        attended: Mean of the squares over the mean: the row length that an average token sees.
        longest: Longest text.
    """

    mean: float
    attended: float
    longest: int


def text_lengths(lengths: Sequence[int]) -> TextLengths:
    """Summarise a sample of lengths.

    Raises:
        InvalidPlan: There are none, or one is below 1.
    """
    sample = np.asarray(lengths, np.float64)
    if not len(sample) or sample.min() < 1:
        raise InvalidPlan(f"{len(sample)} lengths given, each must be 1 or more and at least one")
    mean = float(sample.mean())
    return TextLengths(
        mean=mean, attended=float((sample**2).mean()) / mean, longest=int(sample.max())
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRequest:
    """The question.

    Attributes:
        model: Catalogue name, or a folder with config.json.
        precisions: Which of `STORAGES`.
        lengths: Lengths of the texts.
        batch_tokens: Token budget of a batch; lowered on devices that it does not fit.
        texts_per_s: Load.
        objective_s: Objective of the 99th percentile of the time in the encoder.
        efficiency: Share of the dense operations that is reached where nothing was measured.
        runtime_bytes: Memory kept for context, libraries and workspace.
        utilisation_ceiling: Share of the capacity that may be planned with.
        allow_reclaimable: Whether spot and community machines will do.

    Raises:
        InvalidPlan: A value is out of its range.
    """

    model: str
    precisions: tuple[str, ...]
    lengths: TextLengths
    batch_tokens: int = 8192
    texts_per_s: float = 100.0
    objective_s: float = 0.2
    efficiency: float = PUBLISHED_EFFICIENCY
    runtime_bytes: float = 0.8e9
    utilisation_ceiling: float = 0.8
    allow_reclaimable: bool = True

    def __post_init__(self) -> None:
        unknown = set(self.precisions) - STORAGES.keys()
        if unknown or not self.precisions:
            raise InvalidPlan(
                f"precisions are {self.precisions!r}; choose from {', '.join(STORAGES)}"
            )
        for name, holds, wanted in (
            ("batch_tokens", self.batch_tokens >= 1, "1 or more"),
            ("texts_per_s", self.texts_per_s > 0, "above 0"),
            ("objective_s", self.objective_s > 0, "above 0"),
            ("efficiency", 0 < self.efficiency <= 1, "above 0, up to 1"),
            ("runtime_bytes", self.runtime_bytes >= 0, "0 or more"),
            ("utilisation_ceiling", 0 < self.utilisation_ceiling < 1, "above 0, below 1"),
        ):
            if not holds:
                raise InvalidPlan(f"{name} is {getattr(self, name)!r}; it must be {wanted}")

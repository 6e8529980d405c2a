"""What is planned for: a model, its texts, a load and an objective."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lasttoken_perf.errors import InvalidPlan
from lasttoken_perf.plan.storage import STORAGES

PUBLISHED_EFFICIENCY = 0.46
"""Share of an H100's dense bf16 operations in the one published figure of a model of this size.

33,000 tokens/s of Qwen3-Embedding-8B at 13.89 GFLOP a token over 989 TFLOP/s.
"""

HOST_TEXTS_PER_S = 3500.0
"""Texts a second that Triton, tokenizer and scheduler carry around an encoder that costs nothing.

Short texts, one a request, on two processor cores that the callers share; in lists of 64 it is five
times as many (docs/measurements/clients.md, 384 dimensions).
"""

LONGEST_TEXT_TOKENS = 10**7
"""Longest text that is accounted for; far above any model's maximum."""
_RANGES = {
    "batch_tokens": (1, 10**9),
    "texts_per_s": (1e-6, 10**9),
    "objective_s": (1e-6, 10**6),
    "efficiency": (0.001, 1),
    "runtime_bytes": (0, 10**12),
    "utilisation_ceiling": (0.001, 0.999),
    "host_texts_per_s": (1e-6, 10**9),
}
"""Least and most of each number: wide enough for any plan, and nothing computed overflows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextLengths:
    """Lengths of the texts in tokens, prompt and special tokens included.

    Attributes:
        mean: Mean length.
        attended: Mean of the squares over the mean: the row length that an average token sees.
        longest: Longest text.

    Raises:
        InvalidPlan: A value is out of its range.
    """

    mean: float
    attended: float
    longest: int

    def __post_init__(self) -> None:
        if not 1 <= self.longest <= LONGEST_TEXT_TOKENS:
            raise InvalidPlan(
                f"the longest text has {self.longest!r} tokens; it must have from 1 to "
                f"{LONGEST_TEXT_TOKENS:,}"
            )
        for name in ("mean", "attended"):
            if not 1 <= getattr(self, name) <= self.longest:
                raise InvalidPlan(
                    f"the {name} length is {getattr(self, name)!r}; it must be from 1 to the "
                    f"longest, {self.longest}"
                )


def text_lengths(lengths: Sequence[int]) -> TextLengths:
    """Summarise a sample of lengths.

    Raises:
        InvalidPlan: There are none, or one is out of its range.
    """
    if not len(lengths):
        raise InvalidPlan("no length of a text is given; give one at least")
    for length in (min(lengths), max(lengths)):
        _check_length(length, "a length")
    sample = np.asarray(lengths, np.float64)
    mean = float(sample.mean())
    # Rounding must not lift the attended length of equal texts above theirs.
    attended = min(float((sample**2).mean()) / mean, float(sample.max()))
    return TextLengths(mean=mean, attended=attended, longest=int(sample.max()))


def read_lengths(file: Path) -> TextLengths:
    """Read a file of one length in tokens a line; empty lines do not count.

    Raises:
        InvalidPlan: The file cannot be read or holds no length, or a line is out of range.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidPlan(f"the lengths {str(file)!r} cannot be read: {error}") from None
    lengths = []
    for number, line in enumerate(lines, start=1):
        for word in line.split():
            where = f"line {number} of {str(file)!r}"
            try:
                length = int(word)
            except ValueError:
                raise InvalidPlan(f"{where} is {word!r}; give a length in tokens a line") from None
            _check_length(length, where)
            lengths.append(length)
    if not lengths:
        raise InvalidPlan(f"{str(file)!r} holds no length; give one in tokens a line")
    return text_lengths(lengths)


def _check_length(length: int, where: str) -> None:
    if not 1 <= length <= LONGEST_TEXT_TOKENS:
        raise InvalidPlan(
            f"{where} is {length!r}; it must be from 1 to {LONGEST_TEXT_TOKENS:,} tokens"
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
        objective_s: Objective of the 99th percentile of the time in the encoder, for texts of mean
            length.
        efficiency: Share of the dense operations that is reached where nothing was measured.
        runtime_bytes: Memory kept for context, libraries and workspace.
        utilisation_ceiling: Share of the capacity that may be planned with.
        host_texts_per_s: What the server around the encoder carries, whatever the device.
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
    host_texts_per_s: float = HOST_TEXTS_PER_S
    allow_reclaimable: bool = True

    def __post_init__(self) -> None:
        unknown = set(self.precisions) - STORAGES.keys()
        if unknown or not self.precisions:
            raise InvalidPlan(
                f"precisions are {self.precisions!r}; choose from {', '.join(STORAGES)}"
            )
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if not low <= value <= high:  # nan is neither
                raise InvalidPlan(f"{name} is {value!r}; it must be from {low:,} to {high:,}")

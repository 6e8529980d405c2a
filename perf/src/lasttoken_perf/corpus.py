"""Texts to measure with: real English prose in a long-tailed mixture of lengths.

The prose is the language reference that every CPython carries (``pydoc_data.topics``), so anyone
has it without a download. The lengths are log-normal, as those of passages and documents are, cut
to a range. `DISTRIBUTIONS` names the ones that the commands offer.
"""

from __future__ import annotations

import pydoc_data.topics
import random
import re
from dataclasses import dataclass

import numpy as np

from lasttoken_perf.errors import UnknownWorkload


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthDistribution:
    """Log-normal lengths in words, cut to a range.

    Attributes:
        median_words: Median.
        sigma: Standard deviation of the logarithm.
        shortest_words: Shortest text.
        longest_words: Longest text.
    """

    median_words: float
    sigma: float
    shortest_words: int
    longest_words: int


DISTRIBUTIONS = {
    "queries": LengthDistribution(median_words=8, sigma=0.4, shortest_words=3, longest_words=24),
    "passages": LengthDistribution(
        median_words=60, sigma=0.4, shortest_words=20, longest_words=180
    ),
    "documents": LengthDistribution(
        median_words=320, sigma=0.35, shortest_words=150, longest_words=580
    ),
    "mixture": LengthDistribution(median_words=36, sigma=1.1, shortest_words=2, longest_words=580),
}
"""Lengths that the commands know by name; ``mixture`` is long-tailed, from queries to documents."""


def texts_of(
    distribution: str, count: int, *, seed: int, instruction: str | None = None
) -> list[str]:
    """Return texts of a named distribution.

    Args:
        distribution: One of `DISTRIBUTIONS`.
        count: How many.
        seed: Decides lengths and passages.
        instruction: Written before each text, as E5-Mistral's and SFR-Embedding-Mistral's queries
            have theirs (https://huggingface.co/Salesforce/SFR-Embedding-Mistral); None for none.

    Raises:
        UnknownWorkload: There is no distribution of that name.
    """
    if distribution not in DISTRIBUTIONS:
        raise UnknownWorkload(
            f"distribution is {distribution!r}; choose one of {', '.join(DISTRIBUTIONS)}"
        )
    texts = _texts(DISTRIBUTIONS[distribution], count, seed)
    if instruction is None:
        return texts
    return [f"Instruct: {instruction}\nQuery: {text}" for text in texts]


def long_tailed_texts(
    count: int, *, seed: int, median_words: int = 36, longest_words: int = 580
) -> list[str]:
    """Return texts of 2 to ``longest_words`` words, log-normal around the median.

    With the demonstration model's tokenizer that is about 5 to 1,000 tokens.

    Args:
        count: How many.
        seed: Decides lengths and passages.
        median_words: Median length.
        longest_words: Longest text.
    """
    return _texts(
        LengthDistribution(
            median_words=median_words, sigma=1.1, shortest_words=2, longest_words=longest_words
        ),
        count,
        seed,
    )


def _texts(lengths: LengthDistribution, count: int, seed: int) -> list[str]:
    words = _prose()
    randomness = random.Random(seed)
    normal = np.random.default_rng(seed)
    drawn = normal.lognormal(np.log(lengths.median_words), lengths.sigma, count)
    texts = []
    for length in drawn.clip(lengths.shortest_words, lengths.longest_words).astype(int).tolist():
        start = randomness.randrange(len(words) - length)
        texts.append(" ".join(words[start : start + length]))
    return texts


def _prose() -> list[str]:
    topics = pydoc_data.topics.topics
    text = " ".join(topics[name] for name in sorted(topics))
    return re.findall(r"\S+", text)

"""Texts to measure with: real English prose in a long-tailed mixture of lengths.

The prose is the language reference that every CPython carries (``pydoc_data.topics``), so anyone
has it without a download. The lengths are log-normal, as those of passages and documents are, cut
to a range.
"""

from __future__ import annotations

import pydoc_data.topics
import random
import re

import numpy as np


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
    words = _prose()
    randomness = random.Random(seed)
    lengths = np.random.default_rng(seed).lognormal(np.log(median_words), 1.1, count)
    texts = []
    for length in np.clip(lengths, 2, longest_words).astype(int).tolist():
        start = randomness.randrange(len(words) - length)
        texts.append(" ".join(words[start : start + length]))
    return texts


def _prose() -> list[str]:
    topics = pydoc_data.topics.topics
    text = " ".join(topics[name] for name in sorted(topics))
    return re.findall(r"\S+", text)

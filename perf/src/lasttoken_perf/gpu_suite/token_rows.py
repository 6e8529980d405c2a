"""The workload: rows of random tokens whose lengths are those of real texts."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lasttoken_export.tensorrt.plan_step import MAX_ROWS
from lasttoken_perf.corpus import DISTRIBUTIONS
from lasttoken_perf.gpu_suite.settings import SuiteSettings
from lasttoken_perf.gpu_suite.shapes import shape_config
from lasttoken_perf.gpu_suite.word_tokenizer import CLOSING_ID, FIRST_WORD_ID, OPENING_ID
from lasttoken_perf.peers.bare_engine import sorted_batches
from lasttoken_perf.plan.request import TextLengths, text_lengths

TOKENS_PER_WORD = 1.4
"""Of English prose in the tokenizers of the Mistral embedders, special tokens aside."""
EVEN_TOKENS = 256
"""Length of every row of the even corpus: that of a passage, at which published figures are."""
MIXTURE, EVEN, QUERIES = "mixture", f"{EVEN_TOKENS} tokens each", "queries"
CORPORA = (MIXTURE, EVEN)
COMPARED_ROWS = 64
"""Rows of each corpus whose vectors are compared with the reference's."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class TokenRows:
    """One corpus, or the queries.

    Attributes:
        distribution: `MIXTURE`, `EVEN` or `QUERIES`.
        rows: Token ids of each row, ``[length] int32``, special tokens included.
    """

    distribution: str
    rows: tuple[NDArray[np.int32], ...]

    @property
    def lengths(self) -> TextLengths:
        """Mean, attended and longest length."""
        return text_lengths([len(row) for row in self.rows])

    @property
    def tokens(self) -> int:
        """Tokens of all rows."""
        return sum(map(len, self.rows))

    def describe(self) -> dict[str, Any]:
        """Return what a result's ``workload`` says of it."""
        digest = hashlib.sha256(b"".join(row.tobytes() + b"|" for row in self.rows))
        return {
            "texts": len(self.rows),
            "tokens": self.tokens,
            "longest": self.lengths.longest,
            "attended": self.lengths.attended,
            "sha256": digest.hexdigest(),
        }


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class PackedBatch:
    """Rows back to back.

    Attributes:
        indices: Which rows of the corpus, in order.
        input_ids: ``[T] int32``.
        row_lengths: ``[B] int32``.
    """

    indices: tuple[int, ...]
    input_ids: NDArray[np.int32]
    row_lengths: NDArray[np.int32]


def make_rows(settings: SuiteSettings, distribution: str) -> TokenRows:
    """Draw the rows of a distribution; the same settings give the same rows."""
    random = np.random.default_rng([settings.seed, *distribution.encode()])
    count = settings.queries if distribution == QUERIES else settings.rows
    if distribution == EVEN:
        lengths = [EVEN_TOKENS] * count
    else:
        words = DISTRIBUTIONS[distribution]
        drawn = random.lognormal(np.log(words.median_words), words.sigma, count)
        drawn = drawn.clip(words.shortest_words, words.longest_words) * TOKENS_PER_WORD
        lengths = [int(length) + 2 for length in drawn]
    vocab_size = shape_config(settings.shape).vocab_size
    return TokenRows(
        distribution=distribution,
        rows=tuple(_row(min(length, settings.max_length), vocab_size, random)
                   for length in lengths),
    )  # fmt: skip


def compared_rows(rows: TokenRows) -> TokenRows:
    """Return the rows that are compared with the reference: the longest one, and the first ones."""
    longest = max(range(len(rows.rows)), key=lambda index: len(rows.rows[index]))
    chosen = list(dict.fromkeys([longest, *range(len(rows.rows))]))[:COMPARED_ROWS]
    return TokenRows(
        distribution=rows.distribution, rows=tuple(rows.rows[index] for index in chosen)
    )


def pack(rows: Sequence[NDArray[np.int32]], batch_tokens: int) -> list[PackedBatch]:
    """Cut rows in order of length into batches of at most ``batch_tokens``.

    A batch has no more rows than the server's, which is also what plans are built for.
    """
    return [
        PackedBatch(
            indices=tuple(indices),
            input_ids=np.concatenate([rows[index] for index in indices]),
            row_lengths=np.array([len(rows[index]) for index in indices], np.int32),
        )
        for whole in sorted_batches([len(row) for row in rows], batch_tokens)
        for indices in (whole[start : start + MAX_ROWS] for start in range(0, len(whole), MAX_ROWS))
    ]


def _row(length: int, vocab_size: int, random: np.random.Generator) -> NDArray[np.int32]:
    row = random.integers(FIRST_WORD_ID, vocab_size, length, dtype=np.int32)
    row[0], row[-1] = OPENING_ID, CLOSING_ID
    return row

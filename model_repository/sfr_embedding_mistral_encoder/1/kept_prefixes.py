"""What texts have begun with more than once, kept from batch to batch.

A causal model's token has the same keys and values in every text that begins with the same tokens.
Those of an instruction are computed with the first query behind it and kept from the second on: a
query that comes alone then costs its own tokens, as one does in a batch of others. Kept is what
two different texts began with alike, before each went on in its own way: that a text is sent again
is by itself no reason to keep it. The vectors are bitwise the same.

vLLM's automatic prefix caching is the same for generation
(https://docs.vllm.ai/en/latest/features/automatic_prefix_caching.html).
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

SHORTEST = 8
"""Fewer tokens are not kept: many texts begin so with a model's own prompt, or by chance, and would
drive instructions out. Chosen, not measured."""
_MOST_KEPT = 32
"""Prefixes that begin alike are compared with a text one by one: so many take 0.04 ms a text."""
_MOST_SEEN = 256
"""Beginnings of texts that are remembered, to know one that comes again."""
_SEEN_ALIKE = 4
"""Texts remembered for each: several instructions may begin with the same `SHORTEST` tokens."""


@dataclass(frozen=True, slots=True, eq=False)
class KeptPrefix:
    """The tokens that some texts begin with.

    Attributes:
        tokens: ``[n]`` int32.
        keys_values: ``[n, W]``, keys and values of all layers in the graph's float type.
    """

    tokens: NDArray[np.int32]
    keys_values: NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class Beginning:
    """So many tokens of a text are those that a kept prefix begins with."""

    prefix: KeptPrefix
    length: int


class KeptPrefixes:
    """Prefixes by their tokens; the one that was not used for longest goes first.

    Its methods may be called from several threads.

    Args:
        max_tokens: Most tokens that are kept, of all prefixes together; no prefix has more than
            half of it.
    """

    def __init__(self, max_tokens: int) -> None:
        self._max_tokens = max_tokens
        self._longest = max_tokens // 2
        self._lock = threading.Lock()
        self._kept: OrderedDict[bytes, KeptPrefix] = OrderedDict()
        self._by_beginning: dict[bytes, list[KeptPrefix]] = {}
        self._tokens = 0
        self._seen: OrderedDict[bytes, deque[tuple[NDArray[np.int32], int]]] = OrderedDict()

    @property
    def tokens(self) -> int:
        """Tokens that are kept."""
        return self._tokens

    def find(self, rows: Sequence[NDArray[np.int32]]) -> list[Beginning | None]:
        """Return what each row begins with, None where nothing of it is kept.

        Args:
            rows: ``[length]`` each. Its last token is never among what is kept: it is pooled.
        """
        with self._lock:
            return [self._find(row) for row in rows]

    def used(self, beginnings: Sequence[Beginning | None]) -> None:
        """Remember that these were of use."""
        with self._lock:
            for beginning in beginnings:
                if beginning is not None:
                    key = beginning.prefix.tokens.tobytes()
                    if key in self._kept:  # else it has gone meanwhile
                        self._kept.move_to_end(key)

    def worth_keeping(
        self, rows: Sequence[NDArray[np.int32]], beginnings: Sequence[Beginning | None]
    ) -> tuple[int, int] | None:
        """Return which row of a batch begins with what should be kept, and with how many tokens.

        It is the one that would save most: what this row and one before it, in this batch or an
        earlier one, begin with alike, if they differ behind it and `SHORTEST` tokens more of it
        than now need not be computed. None where nothing is.

        Args:
            rows: ``[length]`` each.
            beginnings: Of `find` for these.
        """
        best, most = None, SHORTEST - 1
        with self._lock:
            for index, (row, beginning) in enumerate(zip(rows, beginnings, strict=True)):
                alike = self._alike_with_seen(row)
                gain = alike - (0 if beginning is None else beginning.length)
                if gain > most:
                    best, most = (index, alike), gain
        return best

    def keep(self, tokens: NDArray[np.int32], keys_values: NDArray[Any]) -> None:
        """Keep a prefix, unless something in it is not finite: a text in its batch overflowed.

        Args:
            tokens: ``[n]``, copied: it is a part of a batch's.
            keys_values: ``[n, W]``, copied: it lies in the arena of a session, in a larger block.
        """
        if not np.isfinite(keys_values).all():
            return
        prefix = KeptPrefix(tokens.copy(), keys_values.copy())
        with self._lock:
            others = self._by_beginning.get(_beginning(tokens), [])
            alike = [common_length(other.tokens, tokens) for other in others]
            if len(tokens) in alike:
                return  # another thread was first
            for other, length in zip(list(others), alike, strict=True):
                if length == len(other.tokens):  # the beginning of this one
                    self._forget(other)
            self._by_beginning.setdefault(_beginning(tokens), []).append(prefix)
            self._kept[prefix.tokens.tobytes()] = prefix
            self._tokens += len(tokens)
            while self._tokens > self._max_tokens or len(self._kept) > _MOST_KEPT:
                self._forget(next(iter(self._kept.values())))

    def _find(self, row: NDArray[np.int32]) -> Beginning | None:
        found, longest = None, SHORTEST - 1
        for prefix in self._by_beginning.get(_beginning(row), ()):
            length = common_length(prefix.tokens, row[:-1])
            if length > longest:
                found, longest = Beginning(prefix, length), length
        return found

    def _alike_with_seen(self, row: NDArray[np.int32]) -> int:
        """Return how much of a row another one began with before going on differently."""
        if len(row) <= SHORTEST:
            return 0
        head, whole = row[: self._longest + 1], hash(row.tobytes())
        seen = self._seen.pop(_beginning(row), None) or deque(maxlen=_SEEN_ALIKE)
        alike = 0
        for seen_head, seen_whole in seen:
            length = common_length(seen_head, head)
            if length > self._longest and seen_whole != whole:
                length = self._longest
            elif length == min(len(seen_head), len(head)):
                length = 0  # the same text, or one that is the beginning of the other
            alike = max(alike, length)
        if all(seen_whole != whole for _, seen_whole in seen):
            seen.append((head.copy(), whole))
        self._seen[_beginning(row)] = seen
        if len(self._seen) > _MOST_SEEN:
            self._seen.popitem(last=False)
        return alike

    def _forget(self, prefix: KeptPrefix) -> None:
        del self._kept[prefix.tokens.tobytes()]
        self._tokens -= len(prefix.tokens)
        alike = self._by_beginning[_beginning(prefix.tokens)]
        alike.remove(prefix)  # by identity: the dataclass defines no equality
        if not alike:
            del self._by_beginning[_beginning(prefix.tokens)]


def common_length(one: NDArray[np.int32], other: NDArray[np.int32]) -> int:
    """Return how many tokens two rows begin with alike."""
    length = min(len(one), len(other))
    differs = one[:length] != other[:length]
    first = int(differs.argmax()) if length else 0
    return first if length and differs[first] else length


def _beginning(tokens: NDArray[np.int32]) -> bytes:
    return tokens[:SHORTEST].tobytes()

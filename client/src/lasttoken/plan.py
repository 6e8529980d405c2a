"""One call on its way: its texts in blocks, their requests, and the rows that have arrived."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lasttoken.decoding import Assembly
from lasttoken.dispatch import Dispatch
from lasttoken.encoding import EmbedCall, split_rows

_MOST_BLOCKS = 4


@dataclass(slots=True, kw_only=True, eq=False)
class Block:
    """Texts that follow each other, and are handed back together.

    Attributes:
        texts: In UTF-8.
        offset: Position of the first in the call.
        assembly: The rows so far.
        missing: Rows that have not arrived.
    """

    texts: tuple[bytes, ...]
    offset: int
    assembly: Assembly
    missing: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PlannedRequest:
    """One request.

    Attributes:
        block: The block that its texts are from.
        rows: Their positions in the block, `[n]`.
        size_bytes: Their size.
    """

    block: Block
    rows: npt.NDArray[np.intp]
    size_bytes: int

    @property
    def texts(self) -> list[bytes]:
        """The texts, in the order in which they are sent."""
        return [self.block.texts[row] for row in self.rows]


class EmbedPlan:
    """The blocks of a call that are not handed back yet, oldest first.

    Attributes:
        call: The checked arguments.
        dispatch: Which request is sent when.
    """

    def __init__(self, call: EmbedCall, dispatch: Dispatch, *, model: str, max_texts: int) -> None:
        """Begin without texts.

        Args:
            call: The checked arguments.
            dispatch: Without requests.
            model: Name of the model, for messages.
            max_texts: Most texts of a request.
        """
        self.call = call
        self.dispatch = dispatch
        self._model = model
        self._max_texts = max_texts
        self._blocks: deque[Block] = deque()
        self._requests: dict[int, PlannedRequest] = {}
        self._texts_added = 0

    @property
    def empty(self) -> bool:
        """Whether every block was handed back."""
        return not self._blocks

    @property
    def wants_block(self) -> bool:
        """Whether the next texts should be read: more could be in flight, and few are held."""
        return len(self._blocks) < _MOST_BLOCKS and self.dispatch.hungry

    @property
    def texts_added(self) -> int:
        """Number of texts so far."""
        return self._texts_added

    def add(
        self,
        texts: tuple[bytes, ...],
        *,
        requests: Sequence[npt.NDArray[np.intp]] | None = None,
        assembly: Assembly | None = None,
    ) -> None:
        """Add a block of at least one text.

        Args:
            texts: In UTF-8.
            requests: For each request the positions of its texts; None splits them into requests of
                similar lengths.
            assembly: Where the rows are put; None for the usual one.
        """
        block = Block(
            texts=texts,
            offset=self._texts_added,
            assembly=assembly or Assembly(len(texts), model=self._model),
            missing=len(texts),
        )
        self._texts_added += len(texts)
        self._blocks.append(block)
        lengths = [len(text) for text in texts]
        split = split_rows(lengths, self._max_texts) if requests is None else requests
        for number, rows in zip(self.dispatch.add(len(split)), split, strict=True):
            size_bytes = sum(lengths[row] for row in rows)
            self._requests[number] = PlannedRequest(block=block, rows=rows, size_bytes=size_bytes)

    def request(self, number: int) -> PlannedRequest:
        """The request of that number, which is not answered yet."""
        return self._requests[number]

    def put(self, number: int, answer: object, now: float) -> None:
        """Check the answer to a request and store its rows."""
        request = self._requests[number]
        request.block.assembly.put(request.rows, answer, offset=request.block.offset)
        request.block.missing -= len(request.rows)
        del self._requests[number]
        self.dispatch.answered(number, now, size_bytes=request.size_bytes)

    def finished_block(self) -> Block | None:
        """Remove and return the oldest block when all its rows have arrived."""
        if self._blocks and not self._blocks[0].missing:
            return self._blocks.popleft()
        return None

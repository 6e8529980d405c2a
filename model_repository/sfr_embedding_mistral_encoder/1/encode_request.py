"""One request of the encoder: its rows of tokens, and where its answer goes."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from encode_errors import EncodeError, InvalidRows
from numpy.typing import NDArray

_SHOWN_CHARACTERS = 80


class ServiceClass(enum.Enum):
    """Interactive requests are served before bulk ones, which are never starved.

    Probes ask whether the encoder works: one short text, past whatever waits.
    """

    INTERACTIVE = "interactive"
    BULK = "bulk"
    PROBE = "probe"


def parse_service_class(value: object) -> ServiceClass:
    """Read the request parameter ``service_class``; None means interactive.

    Raises:
        InvalidRows: It is the name of none.
    """
    if value is None:
        return ServiceClass.INTERACTIVE
    try:
        return ServiceClass(value)
    except ValueError:
        known = ", ".join(repr(member.value) for member in ServiceClass)
        shown = repr(value)
        if len(shown) > _SHOWN_CHARACTERS:  # a status's message has to fit into a header of gRPC's
            shown = f"{shown[:_SHOWN_CHARACTERS]}..."
        raise InvalidRows(f"service_class is {shown}; send one of {known}, or nothing") from None


@dataclass(eq=False, slots=True)
class Row:
    """One text's tokens, waiting.

    Attributes:
        request: The request that it belongs to.
        index: Its place in the request.
        tokens: ``[length]`` int32.
        arrival: Number of the row in order of arrival; set by the queue.
        turn: Batch of its class at which it is served in order of arrival at the latest; set by the
            queue.
    """

    request: EncodeRequest
    index: int
    tokens: NDArray[np.int32]
    arrival: int = -1
    turn: float = -1


class EncodeRequest:
    """A request and its answer, which is given exactly once.

    `add_vector` and `fail` are called from one thread. An answered request has no rows any more:
    they and it would hold each other, and with them the shared memory of Triton's request, until
    Python's cycle collector comes.

    Args:
        rows: One array of token ids a text, each ``[length] int32`` with length at least 1.
        on_answer: Called once, with ``[rows, dim] float32`` or with an error.
        service_class: Interactive, bulk or a probe.
        deadline_s: When it is worthless, on the scheduler's clock; None for never.
        is_cancelled: Asked right before the rows are computed.
    """

    __slots__ = (
        "_answered", "_missing", "_vectors", "deadline_s", "is_cancelled", "on_answer", "rows",
        "service_class", "submitted_s",
    )  # fmt: skip

    def __init__(
        self,
        rows: list[NDArray[np.int32]],
        on_answer: Callable[[NDArray[np.float32] | EncodeError], None],
        *,
        service_class: ServiceClass = ServiceClass.INTERACTIVE,
        deadline_s: float | None = None,
        is_cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        self.rows = [Row(self, index, tokens) for index, tokens in enumerate(rows)]
        self.on_answer = on_answer
        self.service_class = service_class
        self.deadline_s = deadline_s
        self.is_cancelled = is_cancelled
        self.submitted_s = 0.0  # on the scheduler's clock; set when it is queued
        self._vectors: NDArray[np.float32] | None = None
        self._missing = len(rows)
        self._answered = False

    @property
    def tokens(self) -> int:
        """Tokens of all rows."""
        return sum(len(row.tokens) for row in self.rows)

    def add_vector(self, index: int, vector: NDArray[np.float32]) -> None:
        """Take the vector ``[dim]`` of one row; the last one completes the answer."""
        if self._answered:
            return
        if self._vectors is None:
            self._vectors = np.empty((len(self.rows), len(vector)), np.float32)
        self._vectors[index] = vector
        self._missing -= 1
        if self._missing == 0:
            self._answer(self._vectors)

    def fail(self, error: EncodeError) -> None:
        """Answer with an error, unless an answer has been given."""
        if not self._answered:
            self._answer(error)

    def _answer(self, answer: NDArray[np.float32] | EncodeError) -> None:
        self._answered = True
        self.rows = []
        self.on_answer(answer)


def rows_from_tensors(
    input_ids: NDArray[Any], row_lengths: NDArray[Any], *, max_length: int, vocab_size: int
) -> list[NDArray[np.int32]]:
    """Cut the request's tensors into rows without their padding.

    Args:
        input_ids: ``[rows, longest] int32``, each row's tokens first.
        row_lengths: ``[rows, 1] int32``.
        max_length: Longest row allowed, in tokens.
        vocab_size: Token ids are below this.

    Returns:
        One ``[length] int32`` array a row; a copy, since the tensors belong to the request.

    Raises:
        InvalidRows: Shapes, lengths or ids are out of range.
    """
    if input_ids.ndim != 2 or row_lengths.shape != (len(input_ids), 1) or not len(input_ids):
        raise InvalidRows(
            f"INPUT_IDS has shape {input_ids.shape} and ROW_LENGTHS {row_lengths.shape}; send "
            "[rows, longest row] and [rows, 1] with at least one row"
        )
    longest = min(max_length, input_ids.shape[1])
    rows = []
    for index, length in enumerate(row_lengths[:, 0].tolist()):
        if not 1 <= length <= longest:
            raise InvalidRows(
                f"row {index} has length {length!r}; it must be from 1 to {longest} tokens "
                f"(the model's limit is {max_length}, INPUT_IDS is {input_ids.shape[1]} wide)"
            )
        row = np.array(input_ids[index, :length], np.int32)
        if row.min() < 0 or row.max() >= vocab_size:
            raise InvalidRows(
                f"row {index} holds token ids from {row.min()} to {row.max()}; "
                f"the vocabulary is 0 to {vocab_size - 1}"
            )
        rows.append(row)
    return rows

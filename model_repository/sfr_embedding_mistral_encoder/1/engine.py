"""The seam between the scheduler and a runtime."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import numpy as np
from computed_work import ComputedWork
from numpy.typing import NDArray

Encode = Callable[[NDArray[np.int32], NDArray[np.int32]], NDArray[np.float32]]
"""`Engine.encode`, or another way to the same vectors."""


class Engine(Protocol):
    """Runs the graph of one model. Called from one thread at a time.

    Attributes:
        runs_beside: Whether `encode` may also be called while it runs on another thread, with the
            same vectors.
        shares_prefixes: Whether tokens with which several rows of a batch begin are computed once.
    """

    runs_beside: bool
    shares_prefixes: bool

    def encode(
        self, input_ids: NDArray[np.int32], row_lengths: NDArray[np.int32]
    ) -> NDArray[np.float32]:
        """Embed the rows of one batch.

        Args:
            input_ids: ``[T]`` tokens of all rows back to back, without padding.
            row_lengths: ``[B]`` tokens of each row, each at least 1, summing to T.

        Returns:
            ``[B, D]`` L2-normalised.

        Raises:
            Exception: Whatever the runtime raises; the scheduler answers the rows concerned.
        """
        ...

    def computed_work(
        self, input_ids: NDArray[np.int32], row_lengths: NDArray[np.int32]
    ) -> ComputedWork:
        """Return what `encode` computes for these rows, padding included.

        Args:
            input_ids: As for `encode`.
            row_lengths: As for `encode`.
        """
        ...


@runtime_checkable
class StreamingEngine(Engine, Protocol):
    """An engine that also computes batches beside each other, each on a thread of its own.

    Attributes:
        streams: How many at a time; 1 for none beside another.
    """

    streams: int

    def encode_in_stream(
        self, input_ids: NDArray[np.int32], row_lengths: NDArray[np.int32]
    ) -> NDArray[np.float32]:
        """Do what `encode` does, with the same vectors, on the calling thread alone.

        Called from ``streams`` threads at a time.
        """
        ...


@runtime_checkable
class OverlappingEngine(Engine, Protocol):
    """An engine that takes a batch while it still computes the one before.

    What `start` returns may be called from another thread than the next `start`.
    """

    def start(
        self, input_ids: NDArray[np.int32], row_lengths: NDArray[np.int32]
    ) -> Callable[[], NDArray[np.float32]]:
        """Begin what `encode` does; at most two batches are in flight.

        Args:
            input_ids: As for `encode`; may change as soon as this returns.
            row_lengths: As for `encode`.

        Returns:
            Waits for the vectors and returns them; called once, in the order of the starts.

        Raises:
            Exception: Whatever the runtime raises, here or when waited for.
        """
        ...

"""Which batch shapes have a CUDA graph: the small ones that come again and again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

Shape = tuple[int, int, int]
"""Tokens, rows and longest row of a batch."""

T = TypeVar("T")

_REMEMBERED_SHAPES = 4096


class GraphCache(Generic[T]):
    """At most so many graphs, the least recently used given up first.

    Args:
        capacity: Most graphs.
        max_tokens: Larger batches take longer than their launches and get no graph.
        sightings: A shape gets one when it comes for this time.
        discard: Gives a graph's resources back.
    """

    def __init__(
        self, *, capacity: int, max_tokens: int, sightings: int, discard: Callable[[T], None]
    ) -> None:
        self._capacity = capacity
        self._max_tokens = max_tokens
        self._sightings = sightings
        self._discard = discard
        self._graphs: OrderedDict[Shape, T] = OrderedDict()
        self._seen: OrderedDict[Shape, int] = OrderedDict()
        self._refused: set[Shape] = set()

    def __len__(self) -> int:
        return len(self._graphs)

    def find(self, shape: Shape) -> T | None:
        """Return a shape's graph, now the most recently used; None where it has none."""
        graph = self._graphs.get(shape)
        if graph is not None:
            self._graphs.move_to_end(shape)
        return graph

    def is_due(self, shape: Shape) -> bool:
        """Count a sighting of a shape without a graph; whether it is to get one now."""
        if self._capacity < 1 or shape[0] > self._max_tokens or shape in self._refused:
            return False
        seen = self._seen.pop(shape, 0) + 1
        self._seen[shape] = seen
        if len(self._seen) > _REMEMBERED_SHAPES:
            self._seen.popitem(last=False)
        return seen >= self._sightings

    def refuse(self, shape: Shape) -> None:
        """Let a shape, for which no graph could be made, be due no more until `clear`."""
        self._seen.pop(shape, None)
        self._refused.add(shape)

    def add(self, shape: Shape, graph: T) -> None:
        """Keep a graph, giving up the least recently used one where there are too many."""
        self._seen.pop(shape, None)
        self._graphs[shape] = graph
        if len(self._graphs) > self._capacity:
            _, oldest = self._graphs.popitem(last=False)
            self._discard(oldest)

    def clear(self) -> None:
        """Give every graph up."""
        self._refused.clear()
        while self._graphs:
            _, graph = self._graphs.popitem()
            self._discard(graph)

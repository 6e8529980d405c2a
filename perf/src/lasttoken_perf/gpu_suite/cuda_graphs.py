"""Forward passes of short batches as CUDA graphs: one launch in place of some hundred.

A single text computes for a few milliseconds, in which a processor cannot launch the kernels of 32
layers one by one. One graph a combination of row lengths, captured when it first comes.

Source: https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs (warm-up on a side stream,
inputs and outputs that stay where they are).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch  # noqa: TID251 - the suite measures torch too
from torch import Tensor  # noqa: TID251 - as above

MAX_TOKENS = 512
"""Longer batches keep the GPU busy without."""
_WARM_RUNS = 3


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class _Captured:
    """A graph, with the places of its input and output."""

    graph: torch.cuda.CUDAGraph
    ids: Tensor
    vectors: Tensor


class GraphedForward:
    """Runs a forward pass whose kernels depend on the row lengths alone.

    Args:
        forward: Takes ids ``[T]`` on the device and the row lengths, returns ``[B, hidden]``. With
            the same lengths it must do the same work, in the same places.
    """

    def __init__(self, forward: Callable[[Tensor, tuple[int, ...]], Tensor]) -> None:
        self._forward = forward
        self._captured: dict[tuple[int, ...], _Captured] = {}

    def __call__(self, ids: Tensor, lengths: tuple[int, ...]) -> Tensor:
        """Return the vectors; valid until the next call with the same lengths."""
        if lengths not in self._captured:
            self._captured[lengths] = self._capture(ids, lengths)
        captured = self._captured[lengths]
        captured.ids.copy_(ids)
        captured.graph.replay()
        return captured.vectors

    def _capture(self, ids: Tensor, lengths: tuple[int, ...]) -> _Captured:
        held = ids.clone()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_WARM_RUNS):
                self._forward(held, lengths)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            vectors = self._forward(held, lengths)
        return _Captured(graph=graph, ids=held, vectors=vectors)

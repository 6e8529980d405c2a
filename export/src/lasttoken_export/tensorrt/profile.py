"""The optimisation profile: the shapes that a plan accepts, and those it is tuned for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lasttoken_export.errors import BuildFailed

Shape = tuple[int, ...]

_USUAL_ROW_TOKENS = 256
"""Rows that the plan is tuned for: passages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanProfile:
    """Bounds of the inputs; each is at least 1.

    Attributes:
        max_batch_tokens: Most tokens of a batch: ``input_ids``.
        max_rows: Most rows of a batch: ``row_lengths``.
        max_length: Longest row: ``slots``, or the second axis of ``token_of_slot``.
        usual_batch_tokens: Tokens that the plan is tuned for.
        shares_prefixes: Whether the graph's rows share tokens.
    """

    max_batch_tokens: int
    max_rows: int
    max_length: int
    usual_batch_tokens: int
    shares_prefixes: bool = False

    def shapes(self) -> dict[str, tuple[Shape, Shape, Shape]]:
        """Return the lowest, usual and highest shape of each input."""
        tokens = min(self.usual_batch_tokens, self.max_batch_tokens)
        longest = min(_USUAL_ROW_TOKENS, self.max_length)
        rows = min(max(tokens // longest, 1), self.max_rows)
        shapes: dict[str, tuple[Shape, Shape, Shape]] = {
            "input_ids": ((1,), (tokens,), (self.max_batch_tokens,)),
            "row_lengths": ((1,), (rows,), (self.max_rows,)),
        }
        if self.shares_prefixes:
            return shapes | {
                "token_of_slot": ((1, 1), (rows, longest), (self.max_rows, self.max_length)),
                "slot_of_token": shapes["input_ids"],
            }
        return shapes | {"slots": ((1,), (longest,), (self.max_length,))}

    def to_tensorrt(self, builder: Any) -> Any:
        """Return it as an ``IOptimizationProfile``.

        Args:
            builder: ``trt.Builder``.

        Raises:
            BuildFailed: TensorRT finds a shape inconsistent.
        """
        profile = builder.create_optimization_profile()
        for name, shapes in self.shapes().items():
            profile.set_shape(name, *shapes)
        if not profile:
            raise BuildFailed(f"TensorRT refuses the optimisation profile {self.shapes()}")
        return profile

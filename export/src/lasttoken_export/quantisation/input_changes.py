"""What is done to the inputs of linear layers, and undone in their weights, before rounding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from lasttoken_export.quantisation.gram import FloatMatrix
from lasttoken_export.quantisation.rotation import rotate_columns, rotate_gram
from lasttoken_export.quantisation.weights import Floats


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class InputChange:
    """Of one linear layer.

    Attributes:
        factors: ``[in]`` what the inputs are divided by.
        rotation: Block in which they are rotated; None where they are not.
    """

    factors: Floats
    rotation: int | None = None

    def applied(self, inputs: Floats) -> Floats:
        """Return inputs ``[tokens, in]`` changed."""
        inputs = inputs / self.factors
        return inputs if self.rotation is None else rotate_columns(inputs, self.rotation)

    def apply_to_gram(self, gram: FloatMatrix) -> None:
        """Make of the inputs' Gram matrix ``[in, in]``, in place, that of changed inputs."""
        gram /= self.factors[:, None]
        gram /= self.factors
        if self.rotation is not None:
            rotate_gram(gram, self.rotation)


class InputChanges(Protocol):
    """Of the linear layers of a model, by their names in the graph."""

    def factors(self, linear: str) -> Floats:
        """Return what its inputs are divided by: ``[in]``."""

    def rotation(self, linear: str) -> int | None:
        """Return the block in which its inputs are rotated, or None."""


class LayerChanges:
    """Of the linear layers of one layer of the model.

    Args:
        changes: By name in the graph.
    """

    def __init__(self, changes: Mapping[str, InputChange]) -> None:
        self._changes = changes

    def factors(self, linear: str) -> Floats:
        """See `InputChanges`."""
        return self._changes[linear].factors

    def rotation(self, linear: str) -> int | None:
        """See `InputChanges`."""
        return self._changes[linear].rotation

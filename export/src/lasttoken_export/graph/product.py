"""What multiplying by the weights of a linear layer gives, and what is left to do with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import onnx_ir as ir

from lasttoken_export.graph.linear_layer import Columns


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """Some outputs of a linear layer.

    Attributes:
        value: ``[T, size]``.
        row_scale: ``[T, 1]`` what it is still to be multiplied by; None for nothing.
        has_bias: Whether the layer's biases, if it has any, are in it.
    """

    value: ir.Value
    row_scale: ir.Value | None = None
    has_bias: bool = False


Multiply = Callable[[Columns], Product]
"""Records the product of inputs, already made ready, with some columns of the weights."""

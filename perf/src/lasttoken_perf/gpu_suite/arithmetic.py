"""Operations and bytes of the model: what the measured times are held against.

    operations of a row of L tokens   L * (2 * matrix parameters + 2 * layers * queries size * L)
    products of a layer               2 * T * in * out for QKV, output, gate/up and down
    bytes of a single short text      every weight but the embedding table, read once

The first counts the half of the attention that a causal kernel must compute, as the planner does
(`lasttoken_perf.plan.model_account`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from lasttoken_export.decoder_config import DecoderConfig
from lasttoken_perf.gpu_suite.settings import FLOAT_BYTES
from lasttoken_perf.plan.model_account import ModelAccount


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixProduct:
    """``[tokens, inputs] x [inputs, outputs]``.

    Attributes:
        name: What the layer calls it.
        tokens: Rows of the first factor.
        inputs: Elements that are summed over.
        outputs: Columns of the result.
    """

    name: str
    tokens: int
    inputs: int
    outputs: int

    @property
    def operations(self) -> int:
        """A multiplication and an addition each."""
        return 2 * self.tokens * self.inputs * self.outputs

    def __str__(self) -> str:
        return f"{self.name} {self.tokens} x {self.inputs} x {self.outputs}"


def layer_products(config: DecoderConfig, tokens: int) -> tuple[MatrixProduct, ...]:
    """Return the matrix products of one layer on a batch, in their order."""
    hidden, inner = config.hidden_size, config.intermediate_size
    queries, keys = config.queries_size, config.keys_size
    return tuple(
        MatrixProduct(name=name, tokens=tokens, inputs=inputs, outputs=outputs)
        for name, inputs, outputs in (
            ("qkv", hidden, queries + 2 * keys),
            ("output", queries, hidden),
            ("gate and up", hidden, 2 * inner),
            ("down", inner, hidden),
        )
    )


def operations_a_token(model: ModelAccount, attended: float) -> float:
    """Return the floating-point operations of a mean token.

    Args:
        model: The model.
        attended: Mean of the squared lengths over the mean length.
    """
    return model.flops_per_token(attended)


def streamed_bytes(model: ModelAccount, precision: str) -> int:
    """Return the bytes of weights that a text must read however short it is."""
    config = model.config
    table = config.vocab_size * config.hidden_size
    return (model.parameters - table) * FLOAT_BYTES[precision]


def largest_tensor_bytes(config: DecoderConfig, precision: str) -> int:
    """Return the bytes of the largest weight of a layer."""
    shapes = config.layer_shapes().values()
    return max(math.prod(shape) for shape in shapes) * FLOAT_BYTES[precision]

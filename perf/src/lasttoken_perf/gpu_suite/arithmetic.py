"""Operations and bytes of the model: what the measured times are held against.

    products of a layer               2 * T * in * out for QKV, output, gate/up and down
    bytes of a single short text      every weight but the embedding table, read once

The operations of a whole model are the planner's (`ModelAccount.flops_per_token`).
"""

from __future__ import annotations

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


def streamed_bytes(model: ModelAccount, precision: str) -> int:
    """Return the bytes of weights that a text must read however short it is."""
    config = model.config
    table = config.vocab_size * config.hidden_size
    return (model.parameters - table) * FLOAT_BYTES[precision]

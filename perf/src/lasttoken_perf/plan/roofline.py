"""How fast a device can be at best, and what bounds it.

A batch of T tokens takes the longer of

    arithmetic  T * flops a token / (efficiency * dense operations a second)
    memory      (weights without the embedding table + activations) / (0.9 * bandwidth)

Source: Williams, Waterman, Patterson, Roofline, https://doi.org/10.1145/1498765.1498785.
"""

from __future__ import annotations

from dataclasses import dataclass

from lasttoken_perf.plan.devices import Device
from lasttoken_perf.plan.model_account import ModelAccount
from lasttoken_perf.plan.storage import STORAGES, weight_bytes

BANDWIDTH_FRACTION = 0.9
"""Share of the data sheet's bandwidth that a copy reaches: 4.3 of 4.8 TB/s measured on one H200."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchTime:
    """Time of one batch.

    Attributes:
        compute_s: Time of its arithmetic, in seconds.
        memory_s: Time of reading what it needs, in seconds.
    """

    compute_s: float
    memory_s: float

    @property
    def seconds(self) -> float:
        """The longer of the two."""
        return max(self.compute_s, self.memory_s)

    @property
    def bound(self) -> str:
        """``compute`` or ``memory``."""
        return "compute" if self.compute_s >= self.memory_s else "memory"


def implied_efficiency(
    model: ModelAccount,
    precision: str,
    device: Device,
    *,
    tokens_per_s: float,
    row_length: float,
) -> float:
    """Share of the dense operations that a throughput in full batches amounts to.

    Above 1 where the device beats its data sheet, as with a faster kind of accumulation.

    Args:
        model: The model.
        precision: One of `STORAGES`.
        device: The device.
        tokens_per_s: Throughput in full batches.
        row_length: Tokens of a row.
    """
    operations_s = device.operations_s[STORAGES[precision].arithmetic]
    return tokens_per_s * model.flops_per_token(row_length) / operations_s


def batch_time(
    model: ModelAccount,
    precision: str,
    device: Device,
    *,
    tokens: int,
    row_length: float,
    efficiency: float,
) -> BatchTime:
    """Roofline time of one batch.

    Args:
        model: The model.
        precision: One of `STORAGES`.
        device: The device.
        tokens: Tokens of the batch.
        row_length: Tokens of a row.
        efficiency: Share of the dense operations that is reached.
    """
    storage = STORAGES[precision]
    operations_s = device.operations_s[storage.arithmetic] * efficiency
    table = model.config.vocab_size * model.config.hidden_size * storage.float_bytes
    # Read once a batch; of the embedding table only the rows of its tokens.
    streamed = weight_bytes(model, precision) - table
    per_token = 2 * model.config.num_layers * model.config.hidden_size * storage.float_bytes
    return BatchTime(
        compute_s=tokens * model.flops_per_token(row_length) / operations_s,
        memory_s=(streamed + tokens * per_token) / (BANDWIDTH_FRACTION * device.bandwidth_bytes_s),
    )

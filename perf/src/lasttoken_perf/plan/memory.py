"""The memory account: what a served model takes on a device.

    weights      matrices, scales, embeddings, norms (`storage.weight_bytes`)
    caches       rotary cosines and sines: token budget * head_dim elements
    activations  the larger of, in the float type:
                   attention  T * (2 h + q + 2 kv)  +  slots * (2 q + 2 kv)
                   MLP        T * (2 h + 3 i)      (gate, up and their product; 2 i without a gate)
    mask         one byte a slot and attended slot, for bidirectional models
    runtime      context, libraries, workspace: a reserve that the caller sets

T is the token budget of a batch, h the hidden size, q and kv the sizes of queries and of keys, i
the MLP's inner size. Slots are the rows gathered for attention: as many as tokens where the rows of
a batch are of one length, which the scheduler comes near to; of a causal model at most twice as
many, where rows share what they begin with. No score matrix is held: attention is fused on every
GPU named here.
"""

from __future__ import annotations

from dataclasses import dataclass

from lasttoken_export.decoder_config import DecoderConfig
from lasttoken_perf.plan.devices import Device
from lasttoken_perf.plan.model_account import ModelAccount
from lasttoken_perf.plan.storage import STORAGES, weight_bytes

_MOST_SLOTS = 2
"""Of a causal model, for each token of the budget: the scheduler's ``MOST_REAL_TOKENS``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryAccount:
    """Bytes of each part (see the module's docstring)."""

    weights: float
    caches: float
    activations: float
    mask: float
    runtime: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.weights + self.caches + self.activations + self.mask + self.runtime


def memory_account(
    model: ModelAccount,
    precision: str,
    *,
    batch_tokens: int,
    longest_row: int,
    runtime_bytes: float,
) -> MemoryAccount:
    """Account for one copy of a model.

    Args:
        model: The model.
        precision: One of `STORAGES`.
        batch_tokens: Most tokens of a batch.
        longest_row: Most tokens of a row.
        runtime_bytes: Reserve for context, libraries and workspace.
    """
    config, float_bytes = model.config, STORAGES[precision].float_bytes
    hidden, queries, inner = config.hidden_size, config.queries_size, config.intermediate_size
    gated = isinstance(config, DecoderConfig) or config.is_nomic
    rotary = isinstance(config, DecoderConfig) or config.is_nomic
    slots = _MOST_SLOTS if model.causal else 1
    attention = 2 * hidden + queries + 2 * model.keys_size + slots * 2 * (queries + model.keys_size)
    mlp = 2 * hidden + (3 if gated else 2) * inner
    return MemoryAccount(
        weights=weight_bytes(model, precision),
        caches=float(batch_tokens * config.head_dim * float_bytes) if rotary else 0.0,
        activations=float(batch_tokens * max(attention, mlp) * float_bytes),
        mask=0.0 if model.causal else float(batch_tokens * min(longest_row, batch_tokens)),
        runtime=runtime_bytes,
    )


def largest_batch(
    model: ModelAccount,
    precision: str,
    device: Device,
    *,
    longest_row: int,
    runtime_bytes: float,
) -> int:
    """Largest token budget that fits a device, 0 if the weights alone do not.

    The account is linear in the budget, for budgets from the longest row up.
    """

    def total(tokens: int) -> float:
        return memory_account(
            model,
            precision,
            batch_tokens=tokens,
            longest_row=longest_row,
            runtime_bytes=runtime_bytes,
        ).total

    base, slope = total(0), total(longest_row + 1) - total(longest_row)
    return max(0, int((device.memory_bytes - base) / slope))

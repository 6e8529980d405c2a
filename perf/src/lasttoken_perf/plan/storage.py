"""How each precision stores weights and calculates: bytes an element, arithmetic, hardware."""

from __future__ import annotations

from dataclasses import dataclass

from lasttoken_perf.plan.devices import Device
from lasttoken_perf.plan.model_account import ModelAccount

INT4_BLOCK = 32
"""Weights that share a scale in int4."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """One precision on a GPU.

    Attributes:
        weight_bytes: Bytes an element of the layers' matrices.
        scales: ``none``, ``channel`` (one an output channel) or ``block``.
        float_bytes: Bytes an element of everything else: embeddings, norms, activations.
        arithmetic: Key of `Device.operations_s`; bf16 and weight-only precisions count as fp16.
        minimum_capability: Lowest compute capability.
    """

    weight_bytes: float
    scales: str
    float_bytes: int
    arithmetic: str
    minimum_capability: tuple[int, int]


STORAGES = {
    "fp16": Storage(weight_bytes=2, scales="none", float_bytes=2, arithmetic="fp16",
                    minimum_capability=(7, 5)),
    "bf16": Storage(weight_bytes=2, scales="none", float_bytes=2, arithmetic="fp16",
                    minimum_capability=(8, 0)),
    "int8": Storage(weight_bytes=1, scales="channel", float_bytes=2, arithmetic="int8",
                    minimum_capability=(7, 5)),
    "fp8": Storage(weight_bytes=1, scales="channel", float_bytes=2, arithmetic="fp8",
                   minimum_capability=(8, 9)),
    "int4": Storage(weight_bytes=0.5, scales="block", float_bytes=2, arithmetic="fp16",
                    minimum_capability=(8, 0)),
}  # fmt: skip
"""By precision. The minima are TensorRT's: bf16 from 8.0, fp8 from 8.9, int4 not on 7.5."""


def weight_bytes(model: ModelAccount, precision: str) -> float:
    """Bytes of all weights as stored: matrices, their scales, and the rest in the float type."""
    storage = STORAGES[precision]
    matrices = model.matrix_parameters
    scales = {
        "none": 0.0,
        "channel": model.output_channels,
        "block": matrices / INT4_BLOCK,
    }[storage.scales]
    rest = model.parameters - matrices + scales
    return matrices * storage.weight_bytes + rest * storage.float_bytes


def unsupported_reason(device: Device, precision: str) -> str | None:
    """Why a device cannot calculate in a precision; None if it can."""
    storage = STORAGES[precision]
    if device.compute_capability < storage.minimum_capability:
        needed = ".".join(map(str, storage.minimum_capability))
        return f"{precision} needs compute capability {needed}"
    if storage.arithmetic not in device.operations_s:
        return f"no {storage.arithmetic} arithmetic on its data sheet"
    return None

"""How each precision stores weights and calculates: bytes an element, arithmetic, hardware."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from lasttoken_export.precisions import FLOATS, PRECISIONS, float_type
from lasttoken_perf.plan.devices import Device
from lasttoken_perf.plan.model_account import ModelAccount

_TARGET = "tensorrt"  # what plans are for; its precisions are those of TensorRT-RTX
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
    """

    weight_bytes: float
    scales: str
    float_bytes: int
    arithmetic: str


STORAGES = {
    "fp16": Storage(weight_bytes=2, scales="none", float_bytes=2, arithmetic="fp16"),
    "bf16": Storage(weight_bytes=2, scales="none", float_bytes=2, arithmetic="fp16"),
    "int8": Storage(weight_bytes=1, scales="channel", float_bytes=2, arithmetic="int8"),
    "fp8": Storage(weight_bytes=1, scales="channel", float_bytes=2, arithmetic="fp8"),
    "int4": Storage(weight_bytes=0.5, scales="block", float_bytes=2, arithmetic="fp16"),
}
"""By the precision's name in `lasttoken_export.precisions`, which says what GPU it needs."""


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


def unsupported_reason(
    device: Device, precision: str, safe_floats: Collection[str] = FLOATS
) -> str | None:
    """Why a device cannot calculate in a precision, or a model not be exported in it.

    Args:
        device: The device.
        precision: A key of `STORAGES`.
        safe_floats: Float types in which the model's activations stay in range.

    Returns:
        The reason; None if it can.
    """
    storage = STORAGES[precision]
    floats = float_type(precision, _TARGET, safe_floats)
    if floats is None:
        return f"the model's activations leave the range of {precision}"
    for part in (precision, floats):
        needed = divmod(PRECISIONS[part].minimum_compute_capability, 10)
        if device.compute_capability < needed:
            what = part if part == precision else f"{precision} beside {part}, as the model wants,"
            return f"{what} needs compute capability {needed[0]}.{needed[1]}"
    if storage.arithmetic not in device.operations_s:
        return f"no {storage.arithmetic} arithmetic on its data sheet"
    return None

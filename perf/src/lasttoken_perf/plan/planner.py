"""Puts the account together: one answer a device and precision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lasttoken_perf.plan.calibration import CalibrationPoint, calibrated_rate
from lasttoken_perf.plan.devices import Device
from lasttoken_perf.plan.figure import Figure
from lasttoken_perf.plan.memory import MemoryAccount, largest_batch, memory_account
from lasttoken_perf.plan.model_account import ModelAccount
from lasttoken_perf.plan.prices import Price, cheapest
from lasttoken_perf.plan.replicas import ReplicaPlan, plan_replicas
from lasttoken_perf.plan.request import PlanRequest
from lasttoken_perf.plan.roofline import batch_time
from lasttoken_perf.plan.storage import unsupported_reason


@dataclass(frozen=True, slots=True, kw_only=True)
class DevicePlan:
    """One device in one precision.

    Attributes:
        device: The device.
        precision: The precision.
        refusal: Why it is no option; empty if it is one.
        memory: Memory account at ``batch_tokens``; None where the precision is not supported.
        batch_tokens: Token budget, lowered to what fits.
        rate: Tokens a second of one device in full batches; None where it is no option.
        rate_bound: ``compute`` or ``memory``, of the roofline in full batches.
        single_text: Time of one text alone, in ms.
        single_bound: ``compute`` or ``memory``, of one text alone.
        replicas: Devices for the load; None where the objective cannot be met.
        price: Cheapest hour of the device; None where no price is known.
        cost_per_hour: Of all replicas, in US dollars.
        cost_per_million_tokens: At the load, in US dollars.
        cost_per_million_texts: At the load, in US dollars.
    """

    device: Device
    precision: str
    refusal: str = ""
    memory: MemoryAccount | None = None
    batch_tokens: int = 0
    rate: Figure | None = None
    rate_bound: str = ""
    single_text: Figure | None = None
    single_bound: str = ""
    replicas: ReplicaPlan | None = None
    price: Price | None = None
    cost_per_hour: Figure | None = None
    cost_per_million_tokens: Figure | None = None
    cost_per_million_texts: Figure | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the plan as JSON values; each figure with its basis."""

        def figure(value: Figure | None) -> dict[str, Any] | None:
            return value.to_json() if value else None

        memory = None
        if self.memory is not None:
            parts = asdict(self.memory) | {"total": self.memory.total}
            memory = {name: Figure(part / 1e9, "GB").to_json() for name, part in parts.items()}
        return {
            "gpu": self.device.name,
            "gpu_memory": Figure(self.device.memory_bytes / 1e9, "GB").to_json(),
            "precision": self.precision,
            "fits": not self.refusal,
            "refusal": self.refusal,
            "memory": memory,
            "batch_tokens": self.batch_tokens,
            "rate": figure(self.rate),
            "rate_bound": self.rate_bound,
            "single_text": figure(self.single_text),
            "single_bound": self.single_bound,
            "replicas": asdict(self.replicas) if self.replicas else None,
            "price": asdict(self.price) | {"reclaimable": self.price.reclaimable}
            if self.price
            else None,
            "cost_per_hour": figure(self.cost_per_hour),
            "cost_per_million_tokens": figure(self.cost_per_million_tokens),
            "cost_per_million_texts": figure(self.cost_per_million_texts),
        }


def plan_all(
    request: PlanRequest,
    model: ModelAccount,
    devices: Sequence[Device],
    prices: Sequence[Price],
    points: tuple[CalibrationPoint, ...],
) -> tuple[DevicePlan, ...]:
    """Plan every device in every precision; options first, the cheapest of them at the top."""
    plans = [
        plan_device(request, model, device, precision, prices, points)
        for device in devices
        for precision in request.precisions
    ]

    def order(plan: DevicePlan) -> tuple[bool, float, float]:
        cost = plan.cost_per_hour.value if plan.cost_per_hour else float("inf")
        rate = plan.rate.value if plan.rate else 0.0
        return bool(plan.refusal), cost, -rate

    return tuple(sorted(plans, key=order))


def plan_device(
    request: PlanRequest,
    model: ModelAccount,
    device: Device,
    precision: str,
    prices: Sequence[Price],
    points: tuple[CalibrationPoint, ...],
) -> DevicePlan:
    """Plan one device in one precision."""
    reason = unsupported_reason(device, precision)
    if reason is not None:
        return DevicePlan(device=device, precision=precision, refusal=reason)
    lengths = request.lengths
    fitting = largest_batch(
        model,
        precision,
        device,
        longest_row=lengths.longest,
        runtime_bytes=request.runtime_bytes,
    )
    wanted = max(request.batch_tokens, lengths.longest)
    batch_tokens = min(wanted, fitting)
    fits = batch_tokens >= lengths.longest
    memory = memory_account(
        model,
        precision,
        batch_tokens=batch_tokens if fits else wanted,
        longest_row=lengths.longest,
        runtime_bytes=request.runtime_bytes,
    )
    if not fits:
        refusal = (
            f"needs {memory.total / 1e9:.1f} of {device.memory_bytes / 1e9:.0f} GB for texts of "
            f"{lengths.longest} tokens"
        )
        return DevicePlan(device=device, precision=precision, refusal=refusal, memory=memory)

    full = batch_time(
        model, precision, device,
        tokens=batch_tokens, row_length=lengths.attended, efficiency=request.efficiency,
    )  # fmt: skip
    rate = calibrated_rate(points, model, precision, device) or Figure(
        batch_tokens / full.seconds, "tokens/s"
    )
    one = batch_time(
        model, precision, device,
        tokens=round(lengths.mean), row_length=lengths.mean, efficiency=request.efficiency,
    )  # fmt: skip
    load_tokens_s = request.texts_per_s * lengths.mean
    replicas = plan_replicas(
        load_tokens_s=load_tokens_s,
        capacity_tokens_s=rate.value,
        floor_s=one.seconds,
        objective_s=request.objective_s,
        utilisation_ceiling=request.utilisation_ceiling,
    )
    price = cheapest(prices, device.name, reclaimable=request.allow_reclaimable)
    hourly = tokens = texts = None
    if price is not None and replicas is not None:
        usd = price.usd_per_hour * replicas.replicas
        hourly = Figure(usd, "USD/h")
        tokens = Figure(usd / (3600 * load_tokens_s) * 1e6, "USD/million tokens")
        texts = Figure(usd / (3600 * request.texts_per_s) * 1e6, "USD/million texts")
    return DevicePlan(
        device=device,
        precision=precision,
        refusal="" if replicas else "one text alone takes more than half of the objective",
        memory=memory,
        batch_tokens=batch_tokens,
        rate=rate,
        rate_bound=full.bound,
        single_text=Figure(one.seconds * 1e3, "ms"),
        single_bound=one.bound,
        replicas=replicas,
        price=price,
        cost_per_hour=hourly,
        cost_per_million_tokens=tokens,
        cost_per_million_texts=texts,
    )

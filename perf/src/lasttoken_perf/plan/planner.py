"""Puts the account together: one answer a device and precision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lasttoken_perf.errors import InvalidPlan
from lasttoken_perf.plan.calibration import CalibrationPoint, calibrated_rate
from lasttoken_perf.plan.devices import Device
from lasttoken_perf.plan.figure import Figure
from lasttoken_perf.plan.memory import MemoryAccount, largest_batch, memory_account
from lasttoken_perf.plan.model_account import ModelAccount
from lasttoken_perf.plan.prices import Price, cheapest
from lasttoken_perf.plan.replicas import ReplicaPlan, plan_replicas
from lasttoken_perf.plan.request import PlanRequest
from lasttoken_perf.plan.roofline import BatchTime, batch_time, implied_efficiency
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
        rate: Tokens a second of one device in full batches, or of the server around it where that
            is less; None where it is no option.
        rate_bound: ``compute`` or ``memory``, of the roofline in full batches, or ``host``.
        single_text: Time of one text of mean length alone, in ms.
        single_bound: ``compute`` or ``memory``, of one text of mean length alone.
        longest_text: Time of the longest text alone, in ms.
        longest_bound: ``compute`` or ``memory``, of the longest text alone.
        longest_p99: Of the longest text under the load, in ms: the wait is that of any other.
        longest_meets_objective: Whether that is within the objective.
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
    longest_text: Figure | None = None
    longest_bound: str = ""
    longest_p99: Figure | None = None
    longest_meets_objective: bool = False
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
            "longest_text": figure(self.longest_text),
            "longest_bound": self.longest_bound,
            "longest_p99": figure(self.longest_p99),
            "longest_meets_objective": self.longest_meets_objective,
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
    """Plan every device in every precision; options first, the cheapest of them at the top.

    Raises:
        InvalidPlan: The longest text is beyond the model's maximum.
    """
    if request.lengths.longest > model.max_length:
        raise InvalidPlan(
            f"the longest text has {request.lengths.longest} tokens, and {model.name} takes "
            f"{model.max_length}: plan with texts cut to that, as the server cuts longer ones"
        )
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
    reason = unsupported_reason(device, precision, model.safe_floats)
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

    known = calibrated_rate(points, model, precision, device)
    efficiency = request.efficiency
    if known is not None:
        efficiency = implied_efficiency(
            model, precision, device, tokens_per_s=known.value, row_length=lengths.attended
        )

    def time_of(tokens: int, row_length: float) -> BatchTime:
        return batch_time(
            model, precision, device,
            tokens=tokens, row_length=row_length, efficiency=efficiency,
        )  # fmt: skip

    full = time_of(batch_tokens, lengths.attended)
    one = time_of(round(lengths.mean), lengths.mean)
    longest = time_of(lengths.longest, lengths.longest)
    rate, rate_bound = known or Figure(batch_tokens / full.seconds, "tokens/s"), full.bound
    host = Figure(request.host_texts_per_s * lengths.mean, "tokens/s")
    if host.value < rate.value:
        rate, rate_bound = host, "host"
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
    longest_p99_s = None
    if replicas is not None:
        # It waits as any text does; its own batch takes longer by what it is longer.
        longest_p99_s = replicas.p99_s + longest.seconds - one.seconds
    refusal = "a text of mean length alone takes more than half of the objective"
    return DevicePlan(
        device=device,
        precision=precision,
        refusal="" if replicas else refusal,
        memory=memory,
        batch_tokens=batch_tokens,
        rate=rate,
        rate_bound=rate_bound,
        single_text=Figure(one.seconds * 1e3, "ms"),
        single_bound=one.bound,
        longest_text=Figure(longest.seconds * 1e3, "ms"),
        longest_bound=longest.bound,
        longest_p99=None if longest_p99_s is None else Figure(longest_p99_s * 1e3, "ms"),
        longest_meets_objective=longest_p99_s is not None and longest_p99_s <= request.objective_s,
        replicas=replicas,
        price=price,
        cost_per_hour=hourly,
        cost_per_million_tokens=tokens,
        cost_per_million_texts=texts,
    )

"""The highest request rate whose p95 is within an objective: the search, its answer in words."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from lasttoken_perf.results import Row


def peak_texts_per_s(rows: Sequence[Row], distribution: str) -> float | None:
    """Return the largest throughput of the closed loop, where a search ends; None without one."""
    return max(
        (float(row["texts_per_s"]) for row in rows
         if row["distribution"] == distribution and row["load"] == "concurrency"
         and "texts_per_s" in row and "discarded" not in row),
        default=None,
    )  # fmt: skip


def search_rate(
    p95_ms: Callable[[float], float | None], *, highest: float, objective_ms: float, steps: int
) -> float | None:
    """Bisect for the highest request rate whose p95 is within the objective.

    Args:
        p95_ms: Measures a rate; None where the point could not be measured, which counts as too
            much.
        highest: Where the search ends, such as the closed loop's throughput.
        objective_ms: The objective.
        steps: Measurements, at least 1.

    Returns:
        The rate, or None where even the lowest one tried was too much.
    """
    low, high = 0.0, highest
    found = None
    for _ in range(steps):
        rate = (low + high) / 2
        latency_ms = p95_ms(rate)
        if latency_ms is not None and latency_ms <= objective_ms:
            found = low = rate
        else:
            high = rate
    return found


def answer_lines(result: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line a distribution: the rate that was found, and the goodput there.

    Args:
        result: Of a sweep; without a search there are no lines.
    """
    for distribution, rate in result["settings"]["rate_at_objective_per_s"].items():
        objective = f"{result['settings']['objective_ms']:g} ms"
        if rate is None:
            yield f"{distribution}: no rate that was tried has its p95 within {objective}"
            continue
        goodput = [
            row["goodput_texts_per_s"] for row in result["rows"]
            if row["distribution"] == distribution and "goodput_texts_per_s" in row
            and row.get("request_rate_per_s") == offered(rate)
        ]  # fmt: skip
        yield (
            f"{distribution}: {rate:.1f} requests/s is the highest rate tried with a p95 within "
            f"{objective} (goodput there {goodput[-1]:.1f} texts/s)"
        )


def offered(rate_per_s: float) -> float:
    """Return the rate that a load point offers for one that the search wants."""
    return round(rate_per_s, 3)

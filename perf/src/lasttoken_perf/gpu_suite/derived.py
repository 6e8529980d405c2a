"""Figures that need more than one step: shares of the ceilings, and distances from the floor.

fraction_of_ceiling   tokens a second * operations a token / operations a second of the model's
own matrix products (the median of the ceilings step)
floor_ms              bytes that a single text must read / the fastest memory traffic measured
times_floor           p50 of a single text / floor_ms
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence

from lasttoken_perf.gpu_suite.arithmetic import streamed_bytes
from lasttoken_perf.gpu_suite.settings import SuiteSettings
from lasttoken_perf.gpu_suite.shapes import shape_account
from lasttoken_perf.results import Row, spread

PRODUCTS = "matrix products of a layer"
TRAFFIC = COPY, READ = "memory copy", "memory read"
PRACTICAL = "torch, packed"


def with_derived(
    rows: Sequence[Row], settings: SuiteSettings, attended: Mapping[str, float]
) -> list[Row]:
    """Add the figures to the rows of engines; rows stay as they are where a ceiling is missing.

    Args:
        rows: Of all steps.
        settings: What they were told.
        attended: Mean of the squared lengths over the mean length, by distribution.
    """
    operations_s = _median(row["flops_per_s"] for row in rows if _is(row, PRODUCTS))
    bytes_s = max(
        (_median(row["bytes_per_s"] for row in rows if _is(row, kind)) or 0.0 for kind in TRAFFIC),
        default=0.0,
    )
    account = shape_account(settings.shape)
    derived = []
    for row in rows:
        added: Row = {}
        if row.get("load") == "corpus" and "discarded" not in row:
            a_token = account.flops_per_token(attended[row["distribution"]])
            added["flops_per_s"] = row["tokens_per_s"] * a_token
            if operations_s:
                added["fraction_of_ceiling"] = added["flops_per_s"] / operations_s
        elif row.get("load") == "single" and "discarded" not in row and bytes_s:
            added["floor_ms"] = 1000 * streamed_bytes(account, row["precision"]) / bytes_s
            added["times_floor"] = row["p50_ms"] / added["floor_ms"]
        derived.append({**row, **added})
    return derived


def ratios(rows: Iterable[Row]) -> dict[str, dict[str, float]]:
    """Return throughput over that of the packed torch model's best variant, by corpus.

    Returns:
        ``"<subject> / torch, packed, <corpus>"`` to the spread over the repeats: each of a
        subject's over the median of the torch model's.
    """
    speeds: dict[tuple[str, str], dict[str, list[float]]] = {}
    for row in rows:
        if row.get("load") == "corpus" and "discarded" not in row:
            by_variant = speeds.setdefault((row["subject"], row["distribution"]), {})
            by_variant.setdefault(row.get("variant", ""), []).append(row["tokens_per_s"])
    best = {
        point: max(by_variant.values(), key=statistics.median)
        for point, by_variant in speeds.items()
    }
    return {
        f"{subject} / {PRACTICAL}, {distribution}": spread(
            [speed / statistics.median(best[PRACTICAL, distribution]) for speed in found]
        )
        for (subject, distribution), found in best.items()
        if subject != PRACTICAL and (PRACTICAL, distribution) in best
    }


def _is(row: Row, subject: str) -> bool:
    return row.get("subject") == subject and "discarded" not in row


def _median(values: Iterable[float]) -> float | None:
    found = list(values)
    return statistics.median(found) if found else None

"""What became of the requests, and what a stretch of them says about drift."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lasttoken_perf.steady.mix import KINDS, WAYS, Request

RIGHT, WRONG = "right", "wrong vector"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one request.

    Attributes:
        request: The request.
        due_s: When it was to be sent, from the begin of the stretch.
        late_s: How much later it was sent: the load generator's own delay.
        latency_s: From when it was due to its answer, so that a late generator hides nothing.
        result: `RIGHT`, `WRONG`, or the name of the error's class.
    """

    request: Request
    due_s: float
    late_s: float
    latency_s: float
    result: str


def errors_of(outcomes: Sequence[Outcome]) -> dict[str, int]:
    """Count what was not answered right, by result."""
    counts = Counter(outcome.result for outcome in outcomes)
    del counts[RIGHT]
    return dict(counts)


def latency_rows(outcomes: Sequence[Outcome], seconds: float) -> list[dict[str, Any]]:
    """Return one row a kind and way in, and one of all interactive requests.

    Args:
        outcomes: Of the whole stretch; only right answers count.
        seconds: Length of the stretch.

    Returns:
        ``requests``, ``p50_ms`` and ``p99_ms`` of the whole, of the first and the last third, and
        ``p99_drift``: the last third's p99 over the first one's, less 1.
    """
    right = [outcome for outcome in outcomes if outcome.result == RIGHT]
    rows = []
    for kind in KINDS:
        for way in WAYS:
            chosen = [o for o in right if (o.request.kind, o.request.way) == (kind, way)]
            about = {"kind": kind.distribution, "way": way, "priority": kind.priority}
            rows.append(about | _latency(chosen, seconds))
    interactive = [o for o in right if o.request.kind.priority == "interactive"]
    about = {"kind": "all", "way": "both", "priority": "interactive"}
    return [*rows, about | _latency(interactive, seconds)]


def _latency(outcomes: Sequence[Outcome], seconds: float) -> dict[str, Any]:
    row: dict[str, Any] = {"requests": len(outcomes)}
    first = [1e3 * o.latency_s for o in outcomes if o.due_s < seconds / 3]
    last = [1e3 * o.latency_s for o in outcomes if o.due_s >= 2 * seconds / 3]
    parts = (("", [1e3 * o.latency_s for o in outcomes]), ("first_", first), ("last_", last))
    for name, latencies_ms in parts:
        if latencies_ms:
            row[f"{name}p50_ms"] = float(np.percentile(latencies_ms, 50))
            row[f"{name}p99_ms"] = float(np.percentile(latencies_ms, 99))
    if first and last:
        row["p99_drift"] = row["last_p99_ms"] / row["first_p99_ms"] - 1
    return row


def memory_rows(samples: Mapping[str, Sequence[tuple[float, int]]]) -> Iterator[dict[str, Any]]:
    """Yield one row a process.

    Args:
        samples: Of each process, ``(time in s, resident bytes)`` in order of time.

    Yields:
        Median megabytes of the first and the last third of the samples, their ``drift``, the
        ``peak_mb``, and ``mb_per_hour``: slope of the line through the last two thirds, where
        caches have been filled and only a leak still grows.
    """
    for process, pairs in samples.items():
        if not pairs:  # it had ended before the first sample
            continue
        times_s, sizes_mb = np.array([t for t, _ in pairs]), np.array([b for _, b in pairs]) / 1e6
        third = max(1, len(pairs) // 3)
        first, last = float(np.median(sizes_mb[:third])), float(np.median(sizes_mb[-third:]))
        settled = slice(third if len(pairs) > third + 1 else 0, None)
        slope = np.polyfit(times_s[settled], sizes_mb[settled], 1)[0] if len(pairs) > 2 else 0.0
        yield {
            "process": process,
            "samples": len(pairs),
            "first_third_mb": first,
            "last_third_mb": last,
            "drift": last / first - 1,
            "peak_mb": float(sizes_mb.max()),
            "mb_per_hour": 3600 * float(slope),
        }

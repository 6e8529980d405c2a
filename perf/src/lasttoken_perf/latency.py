"""Latencies as the fields of a row of results."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def latency_fields(latency_ms: NDArray[np.float64]) -> dict[str, float]:
    """Return mean, percentiles and maximum of at least one latency, all in milliseconds."""
    percentiles = {f"p{p}_ms": float(np.percentile(latency_ms, p)) for p in (50, 90, 95, 99)}
    return {
        "mean_ms": float(latency_ms.mean()),
        **percentiles,
        "max_ms": float(latency_ms.max()),
    }

"""How many replicas carry a load within a latency objective.

The encoder serves in batches that close when the device is free (gated service): a batch takes the
fixed time f of a small batch plus the time of the tokens that arrived during the one before. With a
replica's capacity of C tokens/s at utilisation rho = load / (replicas * C) a batch therefore takes

    t = f / (1 - rho)

and a request that just missed one waits for it and is served by the next: at most 2 t, which is
held against the objective of the 99th percentile. Arrivals are taken to be steady over a batch;
bursts need head room, hence the ceiling on rho.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaPlan:
    """Replicas for a load.

    Attributes:
        replicas: How many.
        utilisation: Share of their capacity that the load takes.
        p99_s: Longest wait and service of a request under steady load, in seconds.
    """

    replicas: int
    utilisation: float
    p99_s: float


def plan_replicas(
    *,
    load_tokens_s: float,
    capacity_tokens_s: float,
    floor_s: float,
    objective_s: float,
    utilisation_ceiling: float,
) -> ReplicaPlan | None:
    """Fewest replicas that meet the objective; None where one text alone takes too long.

    Args:
        load_tokens_s: Tokens to be embedded a second.
        capacity_tokens_s: Tokens a second of one replica in full batches.
        floor_s: Time of a batch of one text.
        objective_s: Latency objective of the 99th percentile, in the encoder.
        utilisation_ceiling: Share of the capacity that may be planned with, below 1.
    """
    allowed = min(utilisation_ceiling, 1 - 2 * floor_s / objective_s)
    if allowed <= 0:
        return None
    replicas = max(1, math.ceil(load_tokens_s / (allowed * capacity_tokens_s) - 1e-9))
    utilisation = load_tokens_s / (replicas * capacity_tokens_s)
    return ReplicaPlan(
        replicas=replicas, utilisation=utilisation, p99_s=2 * floor_s / (1 - utilisation)
    )

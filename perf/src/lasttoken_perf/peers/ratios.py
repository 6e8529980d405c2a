"""Speed of ours over each peer's, taken repeat by repeat within one run."""

from __future__ import annotations

from collections.abc import Sequence

from lasttoken_perf.peers.contestants import BARE, SERVED, SINGLE
from lasttoken_perf.results import Row, spread


def ratios(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """Return the spread of every ratio over the repeats that both have.

    Returns:
        ``"<ours> / <peer>, <load>"`` to the spread of tokens a second (corpus, mixed) or of the
        peer's p50 over ours (single); and ``"<served> - <bare>, single, ms"``.
    """
    by: dict[tuple[str, str], dict[int, Row]] = {}
    for row in rows:
        by.setdefault((row["subject"], row["load"]), {})[row["repeat"]] = row
    found = {}
    for (subject, load), theirs in by.items():
        for ours in (SERVED, BARE):
            mine = by.get((ours, load), {})
            both = [(theirs[n], mine[n]) for n in theirs if n in mine]
            if subject in (SERVED, ours) or not both:
                continue
            found[f"{ours} / {subject}, {load}"] = spread(
                [
                    their["p50_ms"] / my["p50_ms"]
                    if load == SINGLE
                    else my["tokens_per_s"] / their["tokens_per_s"]
                    for their, my in both
                ]
            )
    served, bare = by.get((SERVED, SINGLE), {}), by.get((BARE, SINGLE), {})
    if both_n := [n for n in served if n in bare]:
        found[f"{SERVED} - {BARE}, {SINGLE}, ms"] = spread(
            [served[n]["p50_ms"] - bare[n]["p50_ms"] for n in both_n]
        )
    return found

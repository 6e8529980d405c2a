"""Markdown tables of results."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a table."""
    yield f"| {' | '.join(heads)} |"
    yield f"|{'---|' * len(heads)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def load_table(summary: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Yield a table of load points: medians of the repeats, with the range of throughput."""
    heads = ["texts", "load", "texts/s (range)", "tokens/s", "p50 ms", "p90", "p95", "p99", "max",
             "tokens a batch", "real/computed tokens", "cells", "CPU cores"]  # fmt: skip
    yield from markdown_table(heads, map(_load_row, summary))


def _load_row(point: Mapping[str, Any]) -> list[str]:
    load = (
        f"{point['concurrency']} at a time"
        if "concurrency" in point
        else f"{point['request_rate_per_s']:g}/s Poisson"
    )
    speed = point["texts_per_s"]
    return [
        str(point["distribution"]),
        load,
        f"{speed['median']:.1f} ({speed['min']:.1f}-{speed['max']:.1f})",
        median(point, "tokens_per_s", ".0f"),
        *(
            median(point, name, ".1f")
            for name in ("p50_ms", "p90_ms", "p95_ms", "p99_ms", "max_ms")
        ),
        median(point, "tokens_per_batch", ".0f"),
        median(point, "real_over_computed_tokens", ".2f"),
        median(point, "real_over_computed_cells", ".2f"),
        median(point, "cpu_cores", ".2f"),
    ]


def steps_table(summary: Iterable[Mapping[str, Any]], steps: Sequence[str]) -> Iterator[str]:
    """Yield a table of where a request's time goes, means in milliseconds."""
    names = [name.removesuffix("_ms").replace("_", " ") for name in steps]
    rows = (
        [str(point["distribution"]), str(point.get("concurrency", "")),
         *(median(point, step, ".2f") for step in steps), median(point, "mean_ms", ".2f")]
        for point in summary
    )  # fmt: skip
    yield from markdown_table(["texts", "at a time", *names, "whole"], rows)


def median(point: Mapping[str, Any], name: str, form: str) -> str:
    """Return a figure's median as text; a dash where it was not measured."""
    return format(point[name]["median"], form) if name in point else "-"

"""What `latency` and `sweep` print: the model, load points, parts of a request, and notes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from lasttoken_perf.objective import answer_lines
from lasttoken_perf.server_figures import STEPS
from lasttoken_perf.tables import markdown_table, median

_PARTS = (*STEPS, "server_ms", "outside_ms", "mean_ms")


def result_lines(result: Mapping[str, Any]) -> Iterator[str]:
    """Yield all lines of a result of `run_sweep`."""
    summary = result["summary"]
    yield heading(result)
    yield ""
    yield from load_table(summary)
    if any("outside_ms" in point for point in summary):
        yield from ("", "mean milliseconds of a request", "")
        yield from steps_table(summary)
    for lines in (answer_lines(result), truncation_lines(result)):
        if found := list(lines):
            yield from ("", *found)


def heading(result: Mapping[str, Any]) -> str:
    """Return what was measured, in one line."""
    model, machine = result["model"], result["machine"]
    name = model.get("model", model["triton_name"])
    words = [f"{name} in {model['precision']}" if "precision" in model else str(name)]
    if "runtime" in model:
        words.append(str(model["runtime"]))
    return f"{', '.join(words)}; load from {machine['cores']} cores of {machine['processor']}"


def load_table(summary: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Yield a table of load points: medians of the repeats, with the range of throughput."""
    points = list(summary)
    heads = ["texts", "load", "texts/s (range)", "tokens/s", "p50 ms", "p90", "p95", "p99", "max",
             "tokens a batch", "real/computed tokens", "cells", "CPU cores"]  # fmt: skip
    goodput = [
        [median(point, "goodput_texts_per_s", ".1f")]
        if any("goodput_texts_per_s" in p for p in points)
        else []
        for point in points
    ]
    if any(goodput):
        heads.append("texts/s within the objective")
    rows = ([*_load_row(point), *more] for point, more in zip(points, goodput, strict=True))
    yield from markdown_table(heads, rows)


def steps_table(summary: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Yield a table of where a request's time goes, means in milliseconds."""
    points = list(summary)
    names = [name.removesuffix("_ms").replace("_", " ") for name in _PARTS]
    rows = (
        [str(point["distribution"]), _load(point),
         *(median(point, part, ".2f") for part in _PARTS)]
        for point in points
    )  # fmt: skip
    names[-1] = "whole"
    yield from markdown_table(["texts", "load", *names], rows)
    yield ""
    yield (
        "server: Triton's own time of the same requests as the parts before it, which overlap a "
        "little. whole: the client's mean, over the measurement windows alone."
    )
    if any(point["outside_ms"]["median"] < 0 for point in points if "outside_ms" in point):
        yield (
            "outside -: the whole less the parts, and here below zero: the parts are of the whole "
            "call, warm-up included."
        )


def truncation_lines(result: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each distribution of which the model cut texts."""
    longest = result["model"].get("max_length")
    limit = "its longest" if longest is None else f"its {longest} tokens"
    for name, workload in result["workload"].items():
        if cut := workload.get("truncated_texts"):
            yield (
                f"{name}: {cut} of {workload['counted_texts']} texts are longer than the model "
                f"takes and were cut to {limit}"
            )


def _load_row(point: Mapping[str, Any]) -> list[str]:
    speed = point["texts_per_s"]
    return [
        str(point["distribution"]),
        _load(point),
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


def _load(point: Mapping[str, Any]) -> str:
    if "concurrency" in point:
        return f"{point['concurrency']} at a time"
    return f"{point['request_rate_per_s']:g}/s Poisson"

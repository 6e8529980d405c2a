"""The suite's tables, for a reader."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lasttoken_perf.gpu_suite.suite import why_not
from lasttoken_perf.tables import in_short, markdown_table, median


def suite_tables(result: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of the tables: ceilings, parity, throughput, latency, and what is missing."""
    by_load: dict[str, list[Mapping[str, Any]]] = {}
    for point in result["summary"]:
        by_load.setdefault(str(point.get("load")), []).append(point)
    yield from markdown_table(
        ["ceiling", "precision", "TFLOP/s", "GB/s"],
        ([_who(p), str(p["precision"]), _scaled(p, "flops_per_s", 1e12, "#.3g"),
          _scaled(p, "bytes_per_s", 1e9, ".0f")] for p in by_load.get("ceiling", ())),
    )  # fmt: skip
    yield ""
    yield from markdown_table(
        ["against transformers", "shape", "texts", "precision", "lowest cosine", "mean cosine"],
        ([_who(p), str(p["model"]), str(p["distribution"]), str(p["precision"]),
          median(p, "minimum_cosine", ".6f"), median(p, "mean_cosine", ".6f")]
         for p in by_load.get("parity", ())),
    )  # fmt: skip
    yield ""
    yield from markdown_table(
        ["who", "precision", "texts", "tokens/s (range)", "of the ceiling", "lowest cosine",
         "power W", "GPU memory"],
        ([_who(p), str(p["precision"]), str(p["distribution"]), _range(p["tokens_per_s"]),
          median(p, "fraction_of_ceiling", ".1%"), median(p, "minimum_cosine", ".5f"),
          median(p, "gpu_power_w", ".0f"), _scaled(p, "gpu_memory_bytes", 1e9, ".1f GB")]
         for p in by_load.get("corpus", ())),
    )  # fmt: skip
    yield ""
    yield from markdown_table(
        ["a single text", "precision", "p50 ms", "p99 ms", "memory-bound floor ms", "p50 / floor"],
        ([_who(p), str(p["precision"]), median(p, "p50_ms", ".2f"), median(p, "p99_ms", ".2f"),
          median(p, "floor_ms", ".3f"), median(p, "times_floor", ".2f")]
         for p in by_load.get("single", ())),
    )  # fmt: skip
    yield ""
    yield from markdown_table(
        ["ratio", "median", "min", "max"],
        ([name, *(f"{ratio[key]:.2f}" for key in ("median", "min", "max"))]
         for name, ratio in result["ratios"].items()),
    )  # fmt: skip
    shares = [p["fraction_of_ceiling"]["median"] for p in by_load.get("corpus", ())
              if "fraction_of_ceiling" in p]  # fmt: skip
    if max(shares, default=0.0) > 1:
        yield ""
        yield (
            "A share above 100 % says that the ceiling was measured too low, as by a busy machine "
            "or with matrices too small to fill it: repeat the step `ceilings` on an idle one."
        )
    if missing := why_not(result):
        yield ""
        yield from markdown_table(
            ["no figure", "why"], ([name, in_short(why)] for name, why in missing.items())
        )


def _who(point: Mapping[str, Any]) -> str:
    variant = f" ({point['variant']})" if "variant" in point else ""
    return f"{point['subject']} {point.get('version', '')}".strip() + variant


def _range(spread: Mapping[str, float]) -> str:
    return f"{spread['median']:.0f} ({spread['min']:.0f}-{spread['max']:.0f})"


def _scaled(point: Mapping[str, Any], name: str, unit: float, form: str) -> str:
    number, _, words = form.partition(" ")
    if name not in point:
        return "-"
    return f"{format(point[name]['median'] / unit, number)} {words}".strip()

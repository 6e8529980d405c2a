"""The table of the comparison with modelopt, written from a result's JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lasttoken_perf.modelopt.schemes import DEFAULT_BLOCK
from lasttoken_perf.tables import markdown_table

_HEADS = ("model", "pairs", "precision", "who", "how", "cosine mean", "1st percentile", "minimum",
          "top-10", "nDCG@10")  # fmt: skip
_PRECISIONS = ("int8", "fp8", "int4")


def render(result: Mapping[str, Any]) -> Iterator[str]:
    """Yield the table, a precision's rows together, and what is to know of it.

    Args:
        result: What ``lasttoken-perf modelopt`` wrote.
    """
    models = list(dict.fromkeys(row["model"] for row in result["rows"]))
    rows = sorted(
        (row for row in result["rows"] if "discarded" not in row),
        key=lambda row: (models.index(row["model"]), _PRECISIONS.index(row["precision"])),
    )
    pairs = {name: result["workload"][name]["pairs"] for name in models}
    yield from markdown_table(_HEADS, (_cells(row, pairs) for row in rows))
    yield ""
    for name in models:
        yield from _notes(name, result["checks"][name])
    for row in result["rows"]:
        if "discarded" in row:
            yield (
                f"- {row['model']}, {row['subject']} {row['variant']} is not in the table: "
                f"{row['discarded']}"
            )


def _cells(row: Mapping[str, Any], pairs: Mapping[str, int]) -> list[str]:
    return [
        str(row["model"]),
        str(pairs[row["model"]]),
        str(row["precision"]),
        str(row["subject"]),
        str(row["variant"]),
        *(f"{row[name]:.5f}" for name in ("mean_cosine", "p1_cosine", "minimum_cosine")),
        f"{row['top10_overlap']:.3f}",
        f"{row['ndcg_change']:+.1%} ± {row['ndcg_change_error']:.1%}".replace("%", " %"),
    ]


def _notes(name: str, checks: Mapping[str, Any]) -> Iterator[str]:
    lowest = checks["lowest_cosine_of_torch_fp32"]
    yield (
        f"- {name}: {checks['linear_layers']} linear layers; torch's fp32 vectors and ours are at "
        f"most {max(1 - lowest, 0):.0e} of cosine apart"
    )
    if widths := checks[f"inputs_that_{DEFAULT_BLOCK}_does_not_divide"]:
        yield (
            f"- {name}: blocks of {DEFAULT_BLOCK} do not divide {', '.join(map(str, widths))} "
            "inputs; modelopt's last block is shorter there"
        )
    for variant, found in checks["quantised"].items():
        if others := found["beyond_linear_layers"]:
            yield (
                f"- {name}, {variant}: modelopt quantises {len(others)} tensors more than the "
                f"linear layers', {others[0]} for one"
            )

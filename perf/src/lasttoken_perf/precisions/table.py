"""The table of the precisions, written from a result's JSON, and the bars that it is held to."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from lasttoken_perf.precisions.speed import BARE, BATCH_TOKENS, SERVED

QUALITY = "quality"


def render(result: Mapping[str, Any]) -> list[str]:
    """Return the lines of precisions.md.

    Args:
        result: What ``lasttoken-perf precisions`` wrote.
    """
    machine = result["machine"]
    lines = [
        "# Precisions",
        "",
        "Written by `make precision-table` from [precisions.json](precisions.json). "
        f"{machine['cores']} cores of {machine['processor']} ({machine['widest_vectors']}), ONNX "
        f"Runtime {machine['packages'].get('onnxruntime', '?')}, CPU; taken {result['taken_at']}. "
        "Medians of alternating repeats within one run; each bare engine in a process of its own, "
        "rows of 64 tokens; served: a real Triton, one text a request, "
        f"{result['settings']['clients']} clients, long-tailed texts. Quality against fp32 on "
        f"{result['settings']['pairs']} pairs of Debian's package index "
        "([quality.md](../quality.md)).",
    ]
    lines += _quality_of_other_runs(result["rows"])
    for model in dict.fromkeys(row["model"] for row in result["rows"]):
        rows = [row for row in result["rows"] if row["model"] == model]
        lines += ["", f"## {model}", "", *_speed_table(rows), "", *_quality_table(rows), ""]
        lines += [f"- {bar}" for bar in bars(rows)]
        for row in rows:
            if "discarded" in row:
                lines.append(f"- {row['precision']} is not in the table: {row['discarded']}")
    return lines


def _quality_of_other_runs(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    others: dict[str, list[str]] = {}
    for row in rows:
        if "quality_taken_at" in row:
            name = f"{row['model']} in {row['precision']}"
            others.setdefault(row["quality_taken_at"], []).append(name)
    return [
        line
        for taken_at, names in sorted(others.items())
        for line in ("", f"The quality of {', '.join(names)} was taken {taken_at}.")
    ]


def bars(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return each bar with its figures, and whether it is reached.

    Args:
        rows: Of one model.
    """
    lines = []
    int8, int4 = _quality(rows, "int8"), _quality(rows, "int4")
    if int8 is not None:
        ratio = _ratio(rows, "int8", "fp32")
        fine = int8["mean_cosine"] >= 0.99 and int8["top10_overlap"] >= 0.9
        if ratio is None:
            said = "speed not measured"
            verdict = "quality reached" if fine else "missed"
        else:
            said = f"{ratio:.2f} times fp32's served tokens/s"
            verdict = "reached" if fine and ratio >= 2 else "missed"
        lines.append(
            f"int8: {said} (bar 2), mean cosine {int8['mean_cosine']:.4f} (0.99), top-10 overlap "
            f"{int8['top10_overlap']:.3f} (0.9): {verdict}"
        )
    fp16 = _quality(rows, "fp16")
    if int4 is not None and fp16 is not None:
        share = int4["file_bytes"] / fp16["file_bytes"]
        fine = share <= 0.35 and int4["mean_cosine"] >= 0.98
        lines.append(
            f"int4: its file is {share:.3f} of fp16's (bar 0.35), of it the token embedding "
            f"{int4['embedding_bytes'] / int4['file_bytes']:.0%} (in fp16 "
            f"{fp16['embedding_bytes'] / fp16['file_bytes']:.0%}), mean cosine "
            f"{int4['mean_cosine']:.4f} (0.98): {'reached' if fine else 'missed'}"
        )
    return lines


def _speed_table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [
        "| precision | runtime | file, MB | of it embedding | peak memory, MB | "
        + " | ".join(f"tokens/s, {n}" for n in BATCH_TOKENS)
        + " | served tokens/s | served / fp32 |",
        "|---|---|" + "---:|" * (len(BATCH_TOKENS) + 5),
    ]
    for precision in _precisions(rows):
        quality = _quality(rows, precision)
        assert quality is not None
        bare = [
            _median(rows, BARE, precision, "tokens_per_s", f"batches of {n} tokens")
            for n in BATCH_TOKENS
        ]
        memory = max(
            (r["rss_bytes"] for r in rows if r["precision"] == precision and "rss_bytes" in r),
            default=None,
        )
        cells = [
            precision,
            "ONNX Runtime CPU",
            f"{quality['file_bytes'] / 1e6:.0f}",
            f"{quality['embedding_bytes'] / quality['file_bytes']:.0%}",
            "-" if memory is None else f"{memory / 1e6:.0f}",
            *("-" if value is None else f"{value:.0f}" for value in bare),
            _shown(_median(rows, SERVED, precision, "tokens_per_s"), ".0f"),
            _shown(_ratio(rows, precision, "fp32"), ".2f"),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _quality_table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [
        "| precision | cosine mean | 1st percentile | minimum | top-10 overlap | nDCG@10 | "
        "change | bitwise the same in every batch |",
        "|---|---:|---:|---:|---:|---:|---:|---|",
    ]
    for precision in _precisions(rows):
        row = _quality(rows, precision)
        assert row is not None
        change, error = row["ndcg_change"], row["ndcg_change_error"]
        lines.append(
            f"| {precision} | {row['mean_cosine']:.5f} | {row['p1_cosine']:.5f} | "
            f"{row['minimum_cosine']:.5f} | {row['top10_overlap']:.3f} | {row['ndcg_at_10']:.4f} | "
            f"{change:+.2%} ± {error:.2%} | {'yes' if row['bitwise_batch_invariant'] else 'no'} |"
        )
    return lines


def _precisions(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return [row["precision"] for row in rows
            if row["subject"] == QUALITY and "discarded" not in row]  # fmt: skip


def _quality(rows: Sequence[Mapping[str, Any]], precision: str) -> Mapping[str, Any] | None:
    for row in rows:
        if (row["subject"], row["precision"]) == (QUALITY, precision) and "discarded" not in row:
            return row
    return None


def _values(
    rows: Sequence[Mapping[str, Any]], subject: str, precision: str, name: str, variant: str | None
) -> list[float]:
    return [
        row[name]
        for row in rows
        if (row["subject"], row["precision"], row.get("variant")) == (subject, precision, variant)
    ]


def _median(
    rows: Sequence[Mapping[str, Any]],
    subject: str,
    precision: str,
    name: str,
    variant: str | None = None,
) -> float | None:
    values = _values(rows, subject, precision, name, variant)
    return statistics.median(values) if values else None


def _ratio(rows: Sequence[Mapping[str, Any]], precision: str, other: str) -> float | None:
    """Median over the repeats of a precision's served speed over another's."""
    ours = _values(rows, SERVED, precision, "tokens_per_s", None)
    theirs = _values(rows, SERVED, other, "tokens_per_s", None)
    pairs = list(zip(ours, theirs, strict=False))
    return statistics.median(a / b for a, b in pairs) if pairs else None


def _shown(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)

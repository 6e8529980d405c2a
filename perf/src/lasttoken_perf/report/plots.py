"""Plots of results as SVG text, to stand inside the page.

Source of the form of results: `lasttoken_perf.results`.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from lasttoken_perf.errors import MissingLibrary

Result = Mapping[str, Any]
Point = Mapping[str, Any]

_COLOURS = ("#2f5d9b", "#c0392b", "#5aa469", "#c77d3a", "#8a6bb1", "#4d4d4d")
_SERVER = "lasttoken server"


def latency_against_load(result: Result) -> str | None:
    """Latency percentiles over offered or answered texts a second; None without such points."""
    points = [p for p in result["summary"] if "p99_ms" in p and "texts_per_s" in p]
    if len(points) < 2:
        return None
    with _canvas("texts/s", "latency, ms") as (axes, finish):
        for number, (name, group) in enumerate(_groups(points, "distribution", "load")):
            ordered = sorted(group, key=lambda p: _middle(p, "texts_per_s"))
            x = [_middle(p, "texts_per_s") for p in ordered]
            for figure, style in (("p50_ms", "--"), ("p99_ms", "-")):
                y = [_middle(p, figure) for p in ordered]
                axes.plot(x, y, style, marker="o", color=_colour(number),
                          label=f"{name}, {figure[:3]}")  # fmt: skip
        axes.set_yscale("log")
        axes.legend(fontsize=8)
        return finish()


def throughput_by_length(result: Result) -> str | None:
    """Highest tokens a second of each distribution of lengths; None for a single one."""
    best: dict[str, Point] = {}
    for point in result["summary"]:
        if "tokens_per_s" in point and "distribution" in point:
            name = str(point["distribution"])
            if name not in best or _middle(point, "tokens_per_s") > _middle(
                best[name], "tokens_per_s"
            ):
                best[name] = point
    if len(best) < 2:
        return None
    return _bars(
        {name: point["tokens_per_s"] for name, point in best.items()}, "tokens/s, best load"
    )


def batch_fill(result: Result) -> str | None:
    """Tokens a batch over the load, and the share of real attention cells."""
    points = [p for p in result["summary"] if "tokens_per_batch" in p and "texts_per_s" in p]
    if len(points) < 2:
        return None
    with _canvas("texts/s", "tokens a batch") as (axes, finish):
        for number, (name, group) in enumerate(_groups(points, "distribution", "load")):
            ordered = sorted(group, key=lambda p: _middle(p, "texts_per_s"))
            axes.plot(
                [_middle(p, "texts_per_s") for p in ordered],
                [_middle(p, "tokens_per_batch") for p in ordered],
                marker="o", color=_colour(number), label=name,
            )  # fmt: skip
        axes.set_ylim(bottom=0)
        axes.legend(fontsize=8)
        return finish()


def quality_against_speed(result: Result) -> str | None:
    """Mean cosine to fp32 over served tokens a second, a point a precision and model."""
    rows = [row for row in result["rows"] if "discarded" not in row]
    models = list(dict.fromkeys(row.get("model", "") for row in rows))
    drawn = 0
    with _canvas("served tokens/s", "mean cosine to fp32") as (axes, finish):
        for number, model in enumerate(models):
            for row in rows:
                if row.get("model", "") != model or "mean_cosine" not in row:
                    continue
                speeds = [
                    other["tokens_per_s"]
                    for other in rows
                    if other.get("model", "") == model
                    and other["precision"] == row["precision"]
                    and other["subject"] == _SERVER
                    and "tokens_per_s" in other
                ]
                if not speeds:
                    continue
                x = sorted(speeds)[len(speeds) // 2]
                axes.plot([x], [row["mean_cosine"]], "o", color=_colour(number))
                axes.annotate(f"{row['precision']} {model}", (x, row["mean_cosine"]), fontsize=8,
                              xytext=(4, 4), textcoords="offset points")  # fmt: skip
                drawn += 1
        return finish() if drawn else None


def peers(result: Result) -> str | None:
    """Ratios of our speed over each peer's, with their spread."""
    spreads = result.get("ratios") or {}
    # Beside the ratios there are differences, in milliseconds.
    ratios = {name: spread for name, spread in spreads.items() if not name.endswith(", ms")}
    return _bars(ratios, "our tokens/s over theirs, or their time over ours") if ratios else None


PLOTS: dict[str, tuple[tuple[str, Callable[[Result], str | None]], ...]] = {
    "latency": (
        ("Latency against load", latency_against_load),
        ("Throughput by length", throughput_by_length),
        ("Batch fill", batch_fill),
    ),
    "sweep": (
        ("Latency against load", latency_against_load),
        ("Throughput by length", throughput_by_length),
        ("Batch fill", batch_fill),
    ),
    "precisions": (("Quality against speed", quality_against_speed),),
    "peers": (("Peers", peers),),
}
"""Plots of each kind of result, with their headings."""


def _groups(points: Sequence[Point], *names: str) -> Iterator[tuple[str, list[Point]]]:
    groups: dict[str, list[Point]] = {}
    for point in points:
        name = ", ".join(str(point[n]) for n in names if n in point)
        groups.setdefault(name, []).append(point)
    yield from groups.items()


def _middle(point: Point, name: str) -> float:
    return float(point[name]["median"])


def _colour(number: int) -> str:
    return _COLOURS[number % len(_COLOURS)]


def _bars(spreads: Mapping[str, Mapping[str, float]], label: str) -> str:
    with _canvas(label, "", height=0.8 + 0.35 * len(spreads)) as (axes, finish):
        names = list(reversed(list(spreads)))
        middles = [spreads[name]["median"] for name in names]
        low = [spreads[n]["median"] - spreads[n]["min"] for n in names]
        high = [spreads[n]["max"] - spreads[n]["median"] for n in names]
        axes.barh(names, middles, xerr=[low, high], color=_COLOURS[0], ecolor="#222222", capsize=3)
        for name, middle in zip(names, middles, strict=True):
            text = f"{middle:,.0f}" if middle >= 100 else f"{middle:.3g}"
            axes.annotate(text, (0, name), fontsize=8, xytext=(4, 0), va="center",
                          textcoords="offset points", color="white")  # fmt: skip
        return finish()


@contextmanager
def _canvas(
    x_label: str, y_label: str, *, height: float = 3.6
) -> Iterator[tuple[Any, Callable[[], str]]]:
    """Axes of a new figure, and what turns it into SVG."""
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise MissingLibrary(
            "the report needs matplotlib: pip install 'lasttoken-perf[plots]'"
        ) from None
    # Text stays text: it can be searched and scales; the same data give the same bytes.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "lasttoken", "font.size": 9}):
        figure = Figure(figsize=(6.4, height), layout="constrained")
        axes = figure.subplots()
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.grid(alpha=0.3)

        def finish() -> str:
            buffer = io.StringIO()
            figure.savefig(buffer, format="svg", metadata={"Date": None})
            text = buffer.getvalue()
            return text[text.index("<svg") :]

        yield axes, finish

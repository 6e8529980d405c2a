"""The plan for people: a table for the terminal or a Markdown page, and a plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lasttoken_perf.errors import InvalidPlan, MissingLibrary
from lasttoken_perf.plan.figure import Figure
from lasttoken_perf.plan.planner import DevicePlan
from lasttoken_perf.plan.published_claims import ClaimCheck

COLUMNS = (
    "GPU", "precision", "memory GB", "batch", "tokens/s", "bound", "one text ms", "longest ms",
    "replicas", "load", "p99 ms", "longest p99 ms", "USD/h", "USD/M tokens", "USD/M texts", "price",
)  # fmt: skip

PLOT_ENDINGS = (".png", ".svg", ".pdf")

LEGEND = (
    "m measured, p published, c computed (roofline). memory: weights + activations + runtime, of "
    "the card's. bound: host is the server around the encoder (--host-texts-per-s). one text, "
    "longest: of mean length and the longest, alone; starting kernels is not in the times.",
    "p99: in the encoder under steady load, of a text of mean length: this is held against the "
    "objective. longest p99: of the longest text in the same load, for information; ! is beyond "
    "the objective.",
    "spot and community machines can be taken back at any time: plan one more, and retries.",
)


def table(plans: Sequence[DevicePlan]) -> list[str]:
    """Return Markdown lines: options, then what is none and why."""
    options = [option_cells(plan.to_json()) for plan in plans if not plan.refusal]
    lines = [f"| {' | '.join(COLUMNS)} |", "|" + "---|" * len(COLUMNS)]
    lines += [f"| {' | '.join(row)} |" for row in options]
    refused = [plan for plan in plans if plan.refusal]
    if not options:
        lines = ["No device is an option."]
    lines += ["", *LEGEND]
    if refused:
        lines += ["", "No option:"]
        lines += [f"- {refusal_line(plan.to_json())}" for plan in refused]
    return lines


def claims_table(checks: Sequence[ClaimCheck]) -> list[str]:
    """Return Markdown lines: published claims against the account."""
    return [
        "| published | account | agrees | why |",
        "|---|---|---|---|",
        *(f"| {c.claim} | {c.account} | {'yes' if c.agrees else 'no'} | {c.why} |" for c in checks),
    ]


def option_cells(plan: Mapping[str, Any]) -> list[str]:
    """Return an option's cells under `COLUMNS`.

    Args:
        plan: Of `DevicePlan.to_json`, without a refusal.
    """
    beyond = "" if plan["longest_meets_objective"] else " !"
    price = "-"
    if plan["price"] is not None:
        price = "{provider} {tier}, {listed}".format(**plan["price"])
    replicas = plan["replicas"]
    return [
        plan["gpu"],
        plan["precision"],
        f"{plan['memory']['total']['value']:.1f} of {plan['gpu_memory']['value']:.0f} c",
        str(plan["batch_tokens"]),
        _figure(plan["rate"], ",.0f"),
        plan["rate_bound"],
        f"{_milliseconds(plan['single_text'], 1)} ({plan['single_bound']})",
        f"{_milliseconds(plan['longest_text'], 1)} ({plan['longest_bound']})",
        str(replicas["replicas"]),
        f"{replicas['utilisation']:.0%}",
        _milliseconds(Figure(replicas["p99_s"] * 1e3, "ms").to_json(), 0),
        f"{_milliseconds(plan['longest_p99'], 0)}{beyond}",
        _figure(plan["cost_per_hour"], ".2f"),
        _figure(plan["cost_per_million_tokens"], ".4f"),
        _figure(plan["cost_per_million_texts"], ".3f"),
        price,
    ]


def refusal_line(plan: Mapping[str, Any]) -> str:
    """Return why a plan of `DevicePlan.to_json` is no option."""
    return f"{plan['gpu']} in {plan['precision']}: {plan['refusal']}"


def _figure(figure: Mapping[str, Any] | None, form: str) -> str:
    return "-" if figure is None else f"{figure['value']:{form}} {figure['basis'][0]}"


def _milliseconds(figure: Mapping[str, Any], digits: int) -> str:
    least = 10.0**-digits  # what rounds to nothing is not nothing
    value = figure["value"]
    shown = f"{value:.{digits}f}" if value >= least / 2 else f"<{least:g}"
    return f"{shown} {figure['basis'][0]}"


def prepare_plot(path: Path) -> None:
    """Check that a plot can be drawn, and make its folder: before the work, not behind it.

    Args:
        path: Where it will be written.

    Raises:
        InvalidPlan: Its ending is none of `PLOT_ENDINGS`, or its folder cannot be made.
        MissingLibrary: matplotlib is not installed.
    """
    if path.suffix.lower() not in PLOT_ENDINGS:
        raise InvalidPlan(f"--plot is {str(path)!r}; it must end in {', '.join(PLOT_ENDINGS)}")
    if path.is_dir():
        raise InvalidPlan(f"--plot is {str(path)!r}, a folder; name a file")
    if find_spec("matplotlib") is None:
        raise MissingLibrary("plots need matplotlib: pip install 'lasttoken-perf[plots]'")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidPlan(
            f"--plot is {str(path)!r}, whose folder cannot be made ({error}); choose another"
        ) from None


def plot(plans: Sequence[DevicePlan], path: Path, *, title: str) -> None:
    """Draw memory and throughput of every device and precision that is an option.

    Args:
        plans: Of `planner.plan_all`.
        path: PNG, SVG or PDF by its ending, as `prepare_plot` left it.
        title: Heading.

    Raises:
        InvalidPlan: The file cannot be written.
    """
    # An optional library, and half a second.
    from matplotlib.figure import Figure as Canvas

    options = [plan for plan in plans if not plan.refusal]
    options.sort(key=lambda plan: plan.rate.value if plan.rate else 0.0)
    labels = [f"{plan.device.name}, {plan.precision}" for plan in options]
    canvas = Canvas(figsize=(11, 1.5 + 0.28 * len(options)), layout="constrained")
    memory_axes, rate_axes = canvas.subplots(1, 2, sharey=True)
    memory_axes.barh(
        labels, [plan.device.memory_bytes / 1e9 for plan in options], color="#e3e7ee", label="card"
    )
    left = [0.0] * len(options)
    for part, colour in (
        ("weights", "#2f5d9b"), ("caches", "#8a6bb1"), ("activations", "#5aa469"),
        ("mask", "#c77d3a"), ("runtime", "#999999"),
    ):  # fmt: skip
        sizes = [getattr(plan.memory, part) / 1e9 for plan in options]
        memory_axes.barh(labels, sizes, left=left, color=colour, height=0.5, label=part)
        left = [total + size for total, size in zip(left, sizes, strict=True)]
    memory_axes.set_xlabel("memory, GB (computed)")
    memory_axes.legend(fontsize=8)
    rates = [plan.rate.value if plan.rate else 0.0 for plan in options]
    computed = [plan.rate is not None and plan.rate.mark() == "c" for plan in options]
    colours = ["#2f5d9b" if is_computed else "#c0392b" for is_computed in computed]
    rate_axes.barh(labels, rates, color=colours)
    rate_axes.set_xlabel("tokens/s in full batches (blue computed, red measured or published)")
    canvas.suptitle(title)
    try:
        canvas.savefig(path)
    except OSError as error:
        raise InvalidPlan(
            f"the plot {str(path)!r} cannot be written: {error}; choose another"
        ) from None

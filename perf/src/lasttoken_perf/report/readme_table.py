"""The README's table, written from the JSON of the run that it shows."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from lasttoken_perf.errors import MalformedResult
from lasttoken_perf.output_file import write_output

BEGIN = "<!-- measured: lasttoken-perf report --readme -->"
END = "<!-- /measured -->"
_SERVED, _BARE, _OTHER = (
    "served, one text a request",
    "bare engine, perfect batches",
    "sentence-transformers",
)


def readme_block(bench: dict[str, Any]) -> str:
    """Return the Markdown between the markers.

    Args:
        bench: What ``lasttoken-perf bench`` wrote.

    Raises:
        MalformedResult: It was interrupted.
    """
    if bench.get("interrupted"):
        raise MalformedResult(f"the bench was ended before its time: {bench['interrupted']}")
    workload = bench.get("workload", bench)  # files of before it had one hold the same keys above
    model = bench["model"] if isinstance(bench["model"], str) else bench["model"]["name"]
    speeds, ratios, lengths = bench["tokens_per_s"], bench["ratios"], workload["token_lengths"]
    machine = bench["machine"]
    other = str(machine["packages"].get("sentence-transformers", "")).partition(".")[0]
    lines = [
        f"{model} in fp32, {workload['texts']} texts ({lengths['p0']:.0f} to "
        f"{lengths['p100']:.0f} tokens, {workload['tokens']:,} in all), {machine['cores']} cores "
        f"of {machine['processor']}, one run of `make bench` that alternates the contestants. "
        "Ratios are medians of the repeats.",
        "",
        "| | tokens/s | served / it |",
        "|---|---|---|",
        f"| served by Triton, one text a request | {speeds[_SERVED]['median']:.0f} | |",
    ]
    for name, said in (
        (_BARE, "the bare engine, sorted perfect batches, nothing sent"),
        (_OTHER, f"sentence-transformers {other} (torch, fp32, batches of 32)".replace("  ", " ")),
    ):
        ratio = ratios[f"{_SERVED} / {name}"]["median"]
        lines.append(f"| {said} | {speeds[name]['median']:.0f} | {ratio:.2f} |")
    return "\n".join(lines)


def write_readme(readme: Path, bench_file: Path) -> bool:
    """Put the table between the README's markers; returns whether it changed.

    Raises:
        MalformedResult: The README has no markers, or the file is no result of the bench.
        OutputUnwritable: The README cannot be written.
    """
    try:
        text = readme.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise MalformedResult(f"{readme} cannot be read: {error}") from None
    try:
        block = readme_block(json.loads(bench_file.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise MalformedResult(f"{bench_file} is no result of the bench: {error!r}") from None
    pattern = re.compile(f"{re.escape(BEGIN)}\n.*?{re.escape(END)}", re.DOTALL)
    if not pattern.search(text):
        raise MalformedResult(f"{readme} has no lines {BEGIN!r} and {END!r}")
    new = pattern.sub(lambda _: f"{BEGIN}\n{block}\n{END}", text)
    if new != text:
        write_output(readme, new)
    return new != text

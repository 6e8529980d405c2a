"""``lasttoken-perf faults``: tries faults on a live local server and tabulates what they do."""

from __future__ import annotations

import argparse
import itertools
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lasttoken import EmbeddingClient, LasttokenError
from lasttoken.local import LocalTriton
from lasttoken_export.catalogue import entry as catalogue_entry
from lasttoken_export.checkpoint import open_checkpoint
from lasttoken_export.exporter import ExportOptions, export_model
from lasttoken_perf.command import Command, add_model_argument, cache_folder, say, write_result
from lasttoken_perf.corpus import long_tailed_texts
from lasttoken_perf.errors import PerfError, WrongAnswer
from lasttoken_perf.faults.scenarios import SCENARIOS
from lasttoken_perf.faults.stage import Finding, Stage
from lasttoken_perf.kept_rows import rows_kept
from lasttoken_perf.output_file import check_output, write_output
from lasttoken_perf.results import make_result
from lasttoken_perf.tables import markdown_table


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_argument(parser)
    parser.add_argument("--only", nargs="+", choices=tuple(SCENARIOS), metavar="NAME",
                        help=f"of {', '.join(SCENARIOS)} (all)")  # fmt: skip
    parser.add_argument("--table", type=Path, metavar="FILE", help="write the table as Markdown")


def _run(options: argparse.Namespace) -> dict[str, Any]:
    if options.table is not None:
        check_output("--table", options.table)
    findings: dict[str, Finding] = {}
    failed: list[str] = []

    def result(interrupted: str | None = None) -> dict[str, Any]:
        made = make_result(
            kind="faults",
            what="faults tried on a live local server",
            rows=[],
            model={"name": options.model},
            packages=("openai", "uvicorn"),
            interrupted=interrupted,
        )
        return made | {
            "findings": [
                {"name": name, **asdict(finding), "alerts": SCENARIOS[name].alerts}
                for name, finding in findings.items()
            ]
        }

    def finished(ended_by: str) -> dict[str, Any] | None:
        return result(f"{ended_by} after {', '.join(findings)}") if findings else None

    with (
        tempfile.TemporaryDirectory(prefix="lasttoken-faults.") as folder,
        rows_kept(options.output, finished),
    ):
        stage = _prepared(options.model, Path(folder))
        for name in options.only or SCENARIOS:
            say(f"fault: {name}")
            try:
                findings[name] = SCENARIOS[name].run(stage)
            except (PerfError, LasttokenError, TimeoutError, ValueError) as error:
                # The others are tried all the same; the command fails at the end.
                failed.append(name)
                findings[name] = Finding(fault=name, seen=f"FAILED: {error}", lost="?", impact=None)
            say(f"{findings[name]}")
    whole = result()
    lines = [*_table(findings), "", *_about(options.model, whole["machine"])]
    print("\n".join(lines))
    if options.table is not None:  # never a part of the table in the place of a whole one
        write_output(options.table, "\n".join(lines) + "\n")
    if failed:
        if options.output is not None:
            write_result(whole, options.output)
        raise WrongAnswer(f"faults that did not end as they should: {', '.join(failed)}")
    return whole


def _prepared(model: str, folder: Path) -> Stage:
    """Export the model, and embed the load's texts one at a time while nothing is broken."""
    entry = catalogue_entry(model)
    checkpoint = open_checkpoint(entry.source, cache_folder=cache_folder())
    texts = long_tailed_texts(60, seed=5, median_words=7, longest_words=60)
    say(f"exporting {model}")
    report = export_model(checkpoint, entry, ExportOptions(output=folder))
    with (
        LocalTriton(folder, cache_folder=cache_folder()) as server,
        EmbeddingClient(server.grpc_url, report.triton_name) as client,
    ):
        expected = {text: client.embed(text) for text in texts}
    return Stage(
        repository=folder,
        model=report.triton_name,
        catalogue_name=model,
        expected=expected,
        cache_folder=cache_folder(),
        say=say,
    )


def _table(findings: Mapping[str, Finding]) -> Iterator[str]:
    heads = ["name", "fault", "requests", "right", "wrong", "what the caller sees", "what is lost",
             "service after, s", "longest gap, s", "p99 ms", "alert if it lasts"]  # fmt: skip
    yield from markdown_table(heads, itertools.starmap(_row, findings.items()))


def _row(name: str, finding: Finding) -> list[str]:
    impact = finding.impact
    counts, times = ["-"] * 3, ["-"] * 3
    if impact is not None:
        counts = [str(impact.requests), str(impact.right), str(impact.wrong)]
        times = [f"{impact.recovery_s:.1f}", f"{impact.outage_s:.1f}", f"{impact.p99_ms:.0f}"]
    alerts = [f"[{a}](../runbooks.md#{a.lower()})" for a in SCENARIOS[name].alerts]
    return [f"`{name}`", finding.fault, *counts, finding.seen, finding.lost, *times,
            ", ".join(alerts) or "-"]  # fmt: skip


def _about(model: str, machine: Mapping[str, Any]) -> Iterator[str]:
    yield (
        f"`lasttoken-perf faults` on {machine['cores']} cores of {machine['processor']} "
        f"({machine['widest_vectors']}), {machine['memory_bytes'] / 2**30:.0f} GiB, "
        f"{len(machine['gpus']) or 'no'} GPU; model {model}. Eight callers with one request at a "
        "time, 10 s for it; every answer is compared bit for bit with the text's own vector. "
        "*Service after*: from the harm (`allocations`: from its end; rolling restarts: from the "
        "first one's begin) to the first right answer of a request sent after it. "
        "*Longest gap*: longest time without any right answer."
    )


COMMAND = Command(add_arguments=_add_arguments, run=_run)

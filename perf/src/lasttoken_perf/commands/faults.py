"""``lasttoken-perf faults``: tries faults on a live local server and tabulates what they do."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lasttoken import EmbeddingClient
from lasttoken.local import LocalTriton
from lasttoken_export.catalogue import entry as catalogue_entry
from lasttoken_export.checkpoint import open_checkpoint
from lasttoken_export.exporter import ExportOptions, export_model
from lasttoken_perf.command import Command, add_model_argument, cache_folder, say
from lasttoken_perf.corpus import long_tailed_texts
from lasttoken_perf.faults.scenarios import SCENARIOS, Finding, Stage
from lasttoken_perf.machine import describe_machine, git_revision
from lasttoken_perf.tables import markdown_table


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_argument(parser)
    parser.add_argument("--only", nargs="*", choices=tuple(SCENARIOS), metavar="NAME",
                        help=f"of {', '.join(SCENARIOS)} (all)")  # fmt: skip
    parser.add_argument("--table", type=Path, metavar="FILE", help="write the table as Markdown")


def _run(options: argparse.Namespace) -> dict[str, Any]:
    entry = catalogue_entry(options.model)
    checkpoint = open_checkpoint(entry.source, cache_folder=cache_folder())
    texts = long_tailed_texts(60, seed=5, median_words=7, longest_words=60)
    findings = []
    with tempfile.TemporaryDirectory(prefix="lasttoken-faults.") as folder:
        say(f"exporting {options.model}")
        report = export_model(checkpoint, entry, ExportOptions(output=Path(folder)))
        with (
            LocalTriton(folder, cache_folder=cache_folder()) as server,
            EmbeddingClient(server.grpc_url, report.triton_name) as client,
        ):
            expected = {text: client.embed(text) for text in texts}
        stage = Stage(
            repository=Path(folder),
            model=report.triton_name,
            catalogue_name=options.model,
            expected=expected,
            cache_folder=cache_folder(),
            say=say,
        )
        for name in options.only or SCENARIOS:
            say(f"fault: {name}")
            findings.append(SCENARIOS[name](stage))
    lines = list(_table(findings))
    print("\n".join(lines))
    if options.table is not None:
        options.table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return {
        "what": "faults tried on a live local server",
        "model": options.model,
        "revision": git_revision(),
        "machine": describe_machine(),
        "findings": [asdict(finding) for finding in findings],
    }


def _table(findings: Sequence[Finding]) -> Iterator[str]:
    heads = ["fault", "requests", "right", "wrong", "what the caller sees", "longest gap, s",
             "p99 ms", "alert"]  # fmt: skip
    yield from markdown_table(heads, map(_row, findings))


def _row(finding: Finding) -> list[str]:
    impact = finding.impact
    figures = ["-"] * 5
    if impact is not None:
        figures = [str(impact.requests), str(impact.right), str(impact.wrong),
                   f"{impact.outage_s:.1f}", f"{impact.p99_ms:.0f}"]  # fmt: skip
    return [finding.fault, *figures[:3], finding.seen, *figures[3:], finding.alert or "-"]


COMMAND = Command(
    name="faults",
    summary="kill, corrupt and restart a live local server under load; what callers see",
    add_arguments=_add_arguments,
    run=_run,
)

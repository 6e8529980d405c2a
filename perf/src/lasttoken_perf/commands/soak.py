"""``lasttoken-perf soak``."""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from lasttoken.local import LocalTriton
from lasttoken_export.catalogue import entry as catalogue_entry
from lasttoken_export.checkpoint import open_checkpoint
from lasttoken_export.exporter import ExportOptions, export_model
from lasttoken_perf.command import Command, add_model_argument, cache_folder, say
from lasttoken_perf.soak import SoakOptions, run_soak


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_argument(parser)
    parser.add_argument("--requests", type=int, default=10_000, help="requests in all")
    parser.add_argument("--clients", type=int, default=64, help="requests at a time")


def _run(options: argparse.Namespace) -> dict[str, Any]:
    entry = catalogue_entry(options.model)
    checkpoint = open_checkpoint(entry.source, cache_folder=cache_folder())
    with tempfile.TemporaryDirectory(prefix="lasttoken-soak.") as folder:
        say(f"exporting {options.model}")
        report = export_model(checkpoint, entry, ExportOptions(output=Path(folder)))
        with LocalTriton(report.repository, cache_folder=cache_folder()) as server:
            result = run_soak(
                server,
                report.triton_name,
                SoakOptions(requests=options.requests, clients=options.clients),
                say=say,
            )
    print(json.dumps(result, indent=1))
    return result


COMMAND = Command(
    name="soak",
    summary="concurrent clients with random cancels and deadlines: every answer right, none lost",
    add_arguments=_add_arguments,
    run=_run,
)

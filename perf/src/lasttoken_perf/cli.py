"""The command ``lasttoken-perf``: results to stdout, what is being done to stderr."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lasttoken.errors import LasttokenError
from lasttoken.local import LocalTriton
from lasttoken_export.catalogue import entry as catalogue_entry
from lasttoken_export.checkpoint import open_checkpoint
from lasttoken_export.errors import ExportError
from lasttoken_export.exporter import ExportOptions, export_model
from lasttoken_perf.bench import BenchOptions, run_bench, table
from lasttoken_perf.errors import MemoryBarMissed, PerfError
from lasttoken_perf.export_bench import run_export_bench
from lasttoken_perf.soak import SoakOptions, run_soak


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code (0 fine, 1 failed, 2 bad usage)."""
    options = _parser().parse_args(arguments)
    try:
        result = options.run(options)
    except (PerfError, ExportError, LasttokenError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        _say(f"written to {options.output}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lasttoken-perf", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    bench = _command(commands, "bench", _bench, "throughput against engine and peers")
    bench.add_argument("--texts", type=int, default=160, help="number of texts")
    bench.add_argument("--repeats", type=int, default=3, help="timed runs of each contestant")
    bench.add_argument("--clients", type=int, default=64, help="requests at a time")
    bench.add_argument("--no-peers", action="store_true", help="without sentence-transformers")

    soak = _command(commands, "soak", _soak, "concurrent clients, random cancels and deadlines")
    soak.add_argument("--requests", type=int, default=10_000, help="requests in all")
    soak.add_argument("--clients", type=int, default=64, help="requests at a time")

    export = _command(commands, "export", _export, "export of a full-size random checkpoint")
    export.add_argument(
        "--folder", type=Path, default=Path("build/bench-export"),
        help="work folder, removed in the end; 32 GB (%(default)s)",
    )  # fmt: skip
    return parser


def _command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], dict[str, Any]], text: str
) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    command.add_argument("--model", default="smollm2-135m", help="catalogue name")
    command.add_argument("--output", type=Path, help="write the result to this file as JSON")
    command.set_defaults(run=run)
    return command


def _bench(options: argparse.Namespace) -> dict[str, Any]:
    result = run_bench(
        BenchOptions(
            model=options.model,
            texts=options.texts,
            repeats=options.repeats,
            clients=options.clients,
            with_peers=not options.no_peers,
            cache_folder=_cache_folder(),
        ),
        say=_say,
    )
    print("\n".join(table(result)))
    return result


def _soak(options: argparse.Namespace) -> dict[str, Any]:
    entry = catalogue_entry(options.model)
    checkpoint = open_checkpoint(entry.source, cache_folder=_cache_folder())
    with tempfile.TemporaryDirectory(prefix="lasttoken-soak.") as folder:
        _say(f"exporting {options.model}")
        report = export_model(checkpoint, entry, ExportOptions(output=Path(folder)))
        with LocalTriton(report.repository) as server:
            result = run_soak(
                server,
                report.triton_name,
                SoakOptions(requests=options.requests, clients=options.clients),
                say=_say,
            )
    print(json.dumps(result, indent=1))
    return result


def _export(options: argparse.Namespace) -> dict[str, Any]:
    result = run_export_bench(options.folder, cache_folder=_cache_folder(), say=_say)
    print(json.dumps(result, indent=1))
    if result["peak_memory_bytes"] > result["peak_memory_bar_bytes"]:
        raise MemoryBarMissed(
            f"the export took {result['peak_memory_bytes'] / 1e9:.2f} GB, the bar is "
            f"{result['peak_memory_bar_bytes'] / 1e9:.2f} GB"
        )
    return result


def _cache_folder() -> Path | None:
    folder = os.environ.get("LASTTOKEN_CACHE")
    return Path(folder) if folder else None


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

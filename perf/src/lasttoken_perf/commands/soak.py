"""``lasttoken-perf soak``: many hasty clients, or a steady load for long."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lasttoken.local import LocalTriton
from lasttoken_export.catalogue import entry as catalogue_entry
from lasttoken_export.checkpoint import open_checkpoint
from lasttoken_export.exporter import ExportOptions, export_model
from lasttoken_perf.command import (
    Command,
    add_model_argument,
    cache_folder,
    positive_number,
    say,
    whole_number,
    write_result,
)
from lasttoken_perf.errors import InvalidSoak, WrongAnswer
from lasttoken_perf.soak import SoakOptions, run_soak
from lasttoken_perf.steady.run import SteadyOptions, run_steady
from lasttoken_perf.tables import markdown_table

_STEADY = ("load", "capacity_seconds")


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_argument(parser)
    parser.add_argument(
        "--requests", type=whole_number(), metavar="N", help="requests in all (10000)"
    )
    parser.add_argument("--clients", type=whole_number(), metavar="N",
                        help="requests at a time (64; 32 to find the capacity)")  # fmt: skip
    steady = parser.add_argument_group("instead of so many requests: mixed traffic for long")
    steady.add_argument("--minutes", type=positive_number, metavar="M",
                        help="queries, passages and documents, by gRPC and through a gateway, for "
                        "M minutes")  # fmt: skip
    steady.add_argument("--load", type=positive_number, metavar="SHARE",
                        help="of the capacity, which is measured first (0.8)")  # fmt: skip
    steady.add_argument("--capacity-seconds", type=positive_number, metavar="S",
                        help="how long it is measured (60)")  # fmt: skip


def _run(options: argparse.Namespace) -> dict[str, Any]:
    steady = {name: getattr(options, name) for name in _STEADY}
    steady = {name: value for name, value in steady.items() if value is not None}
    hurried = {"requests": options.requests, "clients": options.clients}
    hurried = {name: value for name, value in hurried.items() if value is not None}
    if options.minutes is None:
        if steady:
            raise InvalidSoak("--load and --capacity-seconds go with --minutes")
        wanted = SoakOptions(**hurried)
        result = _with_server(
            options.model,
            lambda server, model: run_soak(server, model, wanted, say=say, output=options.output),
        )
        print(json.dumps(result, indent=1))
        return result
    if options.requests is not None:
        raise InvalidSoak("give --minutes or --requests, not both")
    asked = SteadyOptions(seconds=60 * options.minutes, **steady, **hurried)
    result = _with_server(
        options.model,
        lambda server, model: run_steady(server, model, asked, say=say, output=options.output),
    )
    print("\n".join(_tables(result)))
    if result["errors"]:
        if options.output is not None:
            write_result(result, options.output)
        raise WrongAnswer(f"of {result['requests']} requests: {result['errors']}")
    return result


def _with_server(name: str, soak: Callable[[LocalTriton, str], dict[str, Any]]) -> dict[str, Any]:
    """Run a soak against a server of its own."""
    entry = catalogue_entry(name)
    checkpoint = open_checkpoint(entry.source, cache_folder=cache_folder())
    with tempfile.TemporaryDirectory(prefix="lasttoken-soak.") as folder:
        say(f"exporting {name}")
        report = export_model(checkpoint, entry, ExportOptions(output=Path(folder)))
        with LocalTriton(report.repository, cache_folder=cache_folder()) as server:
            return soak(server, report.triton_name)


def _tables(result: Mapping[str, Any]) -> Iterator[str]:
    yield (
        f"{result['requests']} requests in {result['seconds']:.0f} s at "
        f"{result['offered_requests_per_s']:.2f}/s, capacity "
        f"{result['capacity_requests_per_s']:.2f}/s; errors: {result['errors'] or 0}"
    )
    yield ""
    heads = ["texts", "way in", "class", "requests", "p50 ms", "p99 ms", "first third's p99",
             "last third's p99", "drift"]  # fmt: skip
    figures = ("p50_ms", "p99_ms", "first_p99_ms", "last_p99_ms")
    yield from markdown_table(
        heads,
        (
            [row["kind"], row["way"], row["priority"], str(row["requests"]),
             *(f"{row[name]:.0f}" if name in row else "-" for name in figures),
             f"{row['p99_drift']:+.0%}" if "p99_drift" in row else "-"]
            for row in result["latency"]
        ),
    )  # fmt: skip
    yield ""
    yield from markdown_table(
        ["process", "first third, MB", "last third, MB", "drift", "peak, MB", "MB an hour"],
        (
            [row["process"], f"{row['first_third_mb']:.1f}", f"{row['last_third_mb']:.1f}",
             f"{row['drift']:+.2%}", f"{row['peak_mb']:.1f}", f"{row['mb_per_hour']:+.1f}"]
            for row in result["memory"]
        ),
    )  # fmt: skip


COMMAND = Command(add_arguments=_add_arguments, run=_run)

"""``lasttoken-perf sweep``."""

from __future__ import annotations

import argparse
from typing import Any

from lasttoken_perf.command import Command, positive_number, whole_number
from lasttoken_perf.commands.latency import add_load_arguments, take
from lasttoken_perf.errors import InvalidUsage


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_load_arguments(parser, distributions=["mixture"])
    parser.add_argument(
        "--concurrency", type=whole_number(), nargs="*", default=[1, 4, 16, 64],
        help="closed loop: requests at a time (1 4 16 64)",
    )  # fmt: skip
    parser.add_argument(
        "--request-rate", type=positive_number, nargs="*", default=[], metavar="PER_S",
        help="open loop: requests a second, Poisson (none)",
    )  # fmt: skip
    parser.add_argument(
        "--objective-ms", type=positive_number, metavar="MS",
        help="search the highest request rate whose p95 is within this latency",
    )  # fmt: skip
    parser.add_argument(
        "--search-steps",
        type=whole_number(0),
        default=5,
        help="points of that search (%(default)s)",
    )


def _run(options: argparse.Namespace) -> dict[str, Any]:
    if options.objective_ms is not None and not options.concurrency:
        raise InvalidUsage(
            "--objective-ms searches below the throughput of the closed loop, of which no point is "
            "asked for: give --concurrency too, such as --concurrency 16"
        )
    if not options.concurrency and not options.request_rate:
        raise InvalidUsage(
            "no load point is asked for: give --concurrency N ... or --request-rate PER_S ..."
        )
    return take(
        "sweep",
        options,
        concurrencies=options.concurrency,
        request_rates_per_s=options.request_rate,
        objective_ms=options.objective_ms,
        search_steps=options.search_steps,
    )


COMMAND = Command(add_arguments=_add_arguments, run=_run)

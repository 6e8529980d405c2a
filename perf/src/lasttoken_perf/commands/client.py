"""``lasttoken-perf client``."""

from __future__ import annotations

import argparse
from typing import Any

from lasttoken_perf.client_bench import ClientBenchOptions, run_client_bench, table
from lasttoken_perf.command import Command, cache_folder, say, whole_number


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--texts", type=whole_number(), default=2000, help="requests of each run")
    parser.add_argument("--in-flight", type=whole_number(), default=64, help="requests at a time")
    parser.add_argument("--repeats", type=whole_number(), default=3, help="runs of each client")
    parser.add_argument(
        "--dimensions",
        type=whole_number(),
        nargs="+",
        default=[384, 4096],
        help="sizes of a vector",
    )


def _run(options: argparse.Namespace) -> dict[str, Any]:
    result = run_client_bench(
        ClientBenchOptions(
            dimensions=tuple(options.dimensions),
            texts=options.texts,
            in_flight=options.in_flight,
            repeats=options.repeats,
            cache_folder=cache_folder(),
        ),
        say=say,
        output=options.output,
    )
    print("\n".join(table(result)))
    return result


COMMAND = Command(add_arguments=_add_arguments, run=_run)

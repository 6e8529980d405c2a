"""``lasttoken-perf bench``."""

from __future__ import annotations

import argparse
from typing import Any

from lasttoken_perf.bench import BenchOptions, run_bench, table
from lasttoken_perf.command import Command, add_model_argument, cache_folder, say, whole_number


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_argument(parser)
    parser.add_argument("--texts", type=whole_number(), default=160, help="number of texts")
    parser.add_argument(
        "--repeats", type=whole_number(), default=3, help="timed runs of each contestant"
    )
    parser.add_argument("--clients", type=whole_number(), default=64, help="requests at a time")
    parser.add_argument("--no-peers", action="store_true", help="without sentence-transformers")


def _run(options: argparse.Namespace) -> dict[str, Any]:
    result = run_bench(
        BenchOptions(
            model=options.model,
            texts=options.texts,
            repeats=options.repeats,
            clients=options.clients,
            with_peers=not options.no_peers,
            cache_folder=cache_folder(),
        ),
        say=say,
        output=options.output,
    )
    print("\n".join(table(result)))
    return result


COMMAND = Command(add_arguments=_add_arguments, run=_run)

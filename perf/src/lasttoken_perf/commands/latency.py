"""``lasttoken-perf latency``."""

from __future__ import annotations

import argparse
from typing import Any

from lasttoken.local.cache_folder import default_cache_folder
from lasttoken_perf.command import (
    Command,
    cache_folder,
    number_from_zero,
    say,
    whole_number,
    write_result,
)
from lasttoken_perf.corpus import DISTRIBUTIONS
from lasttoken_perf.errors import NothingMeasured
from lasttoken_perf.load_tables import result_lines
from lasttoken_perf.perf_analyzer.install import install_perf_analyzer
from lasttoken_perf.serving import add_serving_arguments, open_serving
from lasttoken_perf.sweep import SweepOptions, run_sweep


def add_load_arguments(parser: argparse.ArgumentParser, *, distributions: list[str]) -> None:
    """Add the arguments that `latency` and `sweep` share."""
    add_serving_arguments(parser)
    parser.add_argument(
        "--distribution", nargs="+", choices=sorted(DISTRIBUTIONS), default=distributions,
        help=f"lengths of the texts (default: {' '.join(distributions)})",
    )  # fmt: skip
    parser.add_argument(
        "--repeats", type=whole_number(), default=3, help="of every point (%(default)s)"
    )
    parser.add_argument(
        "--texts",
        type=whole_number(),
        default=200,
        help="distinct texts of a distribution (%(default)s)",
    )
    parser.add_argument(
        "--requests", type=whole_number(), default=100,
        help="requests of a measurement window; a point takes three or more (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--stability", type=number_from_zero, default=0.25, metavar="SHARE",
        help="windows of a point must be within this share of each other (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--seed", type=whole_number(0), default=7, help="decides the texts (%(default)s)"
    )


def take(kind: str, options: argparse.Namespace, **more: Any) -> dict[str, Any]:
    """Install perf_analyzer, have the server, sweep, print the tables.

    Raises:
        NothingMeasured: Every load point was discarded; the result is written all the same.
    """
    perf_analyzer = install_perf_analyzer(cache_folder() or default_cache_folder(), say)
    sweep = SweepOptions(
        distributions=options.distribution,
        repeats=options.repeats,
        texts=options.texts,
        requests=options.requests,
        stability=options.stability,
        seed=options.seed,
        **more,
    )
    with open_serving(options, cache_folder=cache_folder(), say=say) as serving:
        result = run_sweep(kind, perf_analyzer, serving, sweep, say=say, output=options.output)
    if not result["summary"]:
        if options.output is not None:
            write_result(result, options.output)
        raise NothingMeasured(
            f"nothing was measured: all {len(result['rows'])} load points were discarded, the "
            f"first because {result['rows'][0]['discarded']}"
        )
    print("\n".join(result_lines(result)))
    return result


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_load_arguments(parser, distributions=["queries", "passages", "documents", "mixture"])
    parser.add_argument(
        "--concurrency", type=whole_number(), nargs="+", default=[1], help="requests at a time (1)"
    )


def _run(options: argparse.Namespace) -> dict[str, Any]:
    return take("latency", options, concurrencies=options.concurrency)


COMMAND = Command(add_arguments=_add_arguments, run=_run)

"""``lasttoken-perf overload``."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from lasttoken_perf.command import Command, cache_folder, positive_number, say, whole_number
from lasttoken_perf.corpus import DISTRIBUTIONS
from lasttoken_perf.errors import UnknownWorkload
from lasttoken_perf.overload import OverloadOptions, bars, run_overload
from lasttoken_perf.results import spread
from lasttoken_perf.serving import add_serving_arguments, open_serving
from lasttoken_perf.tables import markdown_table


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_serving_arguments(parser)
    parser.add_argument(
        "--distribution", choices=sorted(DISTRIBUTIONS), default="mixture", help="(%(default)s)"
    )
    parser.add_argument(
        "--seconds",
        type=positive_number,
        default=45.0,
        help="of each stretch of load; longer than a full queue takes (%(default)s)",
    )
    parser.add_argument(
        "--factor",
        type=positive_number,
        default=2.0,
        help="offered over sustained load (%(default)s)",
    )
    parser.add_argument(
        "--clients",
        type=whole_number(),
        default=64,
        help="of the sustained and the bulk load (%(default)s)",
    )
    parser.add_argument(
        "--repeats", type=whole_number(), default=3, help="of everything (%(default)s)"
    )
    parser.set_defaults(max_queue_tokens=8192)
    parser.add_argument(
        "--max-queue-tokens", type=whole_number(), metavar="N",
        help="of the export: what may wait bounds how long it waits (%(default)s)",
    )  # fmt: skip


def _run(options: argparse.Namespace) -> dict[str, Any]:
    if options.url is not None and options.metrics_url is None:
        raise UnknownWorkload(
            "--url is given without --metrics-url: what the server queued and refused is read "
            "there; give it, such as http://HOST:8002/metrics"
        )
    with open_serving(options, cache_folder=cache_folder(), say=say) as serving:
        result = run_overload(
            serving,
            OverloadOptions(
                distribution=options.distribution,
                seconds=options.seconds,
                factor=options.factor,
                clients=options.clients,
                repeats=options.repeats,
            ),
            say=say,
            output=options.output,
        )
    found = {name: spread(values) for name, values in bars(result["rows"]).items()}
    print("\n".join(bars_table(found)))
    return {**result, "bars": found}


def bars_table(found: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Return the lines of a result's ``bars``: median, least and largest of each figure."""
    rows = (
        [name, *(f"{value[key]:.2f}" for key in ("median", "min", "max"))]
        for name, value in found.items()
    )
    return list(markdown_table(["figure", "median", "min", "max"], rows))


COMMAND = Command(add_arguments=_add_arguments, run=_run)

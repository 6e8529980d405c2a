"""``lasttoken-perf plans``."""

from __future__ import annotations

import argparse
from typing import Any

from lasttoken_export.tensorrt.target import parse_capability
from lasttoken_perf.command import Command, cache_folder, say
from lasttoken_perf.plan_sizes import plans_table, run_plan_sizes

_PRECISIONS = ("fp16", "bf16", "int8", "int8-weights", "fp8", "int4")


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--models", nargs="+", choices=("smollm2", "sfr"),
                        default=["smollm2", "sfr"],
                        help="smollm2: whole; sfr: one layer and two (both)")  # fmt: skip
    parser.add_argument("--precisions", nargs="+", choices=("fp32", *_PRECISIONS),
                        default=list(_PRECISIONS), help="all but fp32 by default")  # fmt: skip
    parser.add_argument("--compute-capability", default="8.9", metavar="X.Y",
                        help="GPU to build for (%(default)s)")  # fmt: skip


def _run(options: argparse.Namespace) -> dict[str, Any]:
    result = run_plan_sizes(
        models=options.models,
        precisions=options.precisions,
        compute_capability=parse_capability(options.compute_capability),
        cache_folder=cache_folder(),
        say=say,
        output=options.output,
    )
    print("\n".join(plans_table(result)))
    return result


COMMAND = Command(add_arguments=_add_arguments, run=_run)

"""``lasttoken-perf gateway-overhead``."""

from __future__ import annotations

import argparse
from typing import Any

from lasttoken_perf.command import Command, cache_folder, positive_number, say, whole_number
from lasttoken_perf.results import make_result


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dimensions", type=whole_number(), nargs="+", default=[384, 4096], help="sizes (384 4096)"
    )
    parser.add_argument("--repeats", type=whole_number(), default=3)
    parser.add_argument(
        "--share", type=positive_number, default=1.0, help="of the requests, to try it out"
    )


def _run(options: argparse.Namespace) -> dict[str, Any]:
    from lasttoken_perf.gateway_overhead import run_gateway_overhead

    rows = run_gateway_overhead(
        sizes=tuple(options.dimensions),
        repeats=options.repeats,
        share=options.share,
        cache_folder=cache_folder(),
        say=say,
    )
    result = make_result(
        kind="gateway-overhead",
        what="the gateway and raw gRPC to a Triton whose encoder is instant",
        rows=rows,
        checks={"shape_and_norm": "of every vector"},
        packages=("openai", "uvicorn", "starlette", "orjson", "tritonclient"),
    )
    for row in result["summary"]:
        print(
            f"{row['dimensions']:5} dims  {row['concurrency']:3} x {row['texts_per_request']:3}  "
            f"{row['subject']:14} {row['texts_per_s']['median']:9.0f} vectors/s   client "
            f"{row['cpu_s_per_1000_texts']['median']:6.3f}   gateway "
            f"{row.get('gateway_cpu_s_per_1000_texts', {}).get('median', 0):6.3f} CPU s / 1,000"
        )
    return result


COMMAND = Command(add_arguments=_add_arguments, run=_run)

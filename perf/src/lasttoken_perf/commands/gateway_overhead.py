"""``lasttoken-perf gateway-overhead``."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from lasttoken_perf.command import Command, cache_folder, positive_number, say, whole_number
from lasttoken_perf.kept_rows import after_rows, rows_kept
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
    from lasttoken_perf.gateway_overhead import check_libraries, run_gateway_overhead

    check_libraries()

    def result(rows: list[dict[str, Any]], interrupted: str | None = None) -> dict[str, Any]:
        return make_result(
            kind="gateway-overhead",
            what="the gateway and raw gRPC to a Triton whose encoder is instant",
            rows=rows,
            checks={"shape_and_norm": "of every vector"},
            packages=("openai", "uvicorn", "starlette", "orjson", "tritonclient"),
            interrupted=interrupted,
        )

    rows = run_gateway_overhead(
        sizes=tuple(options.dimensions),
        repeats=options.repeats,
        share=options.share,
        cache_folder=cache_folder(),
        say=say,
        keeping=lambda rows: rows_kept(
            options.output, after_rows(rows, lambda interrupted: result(rows, interrupted))
        ),
    )
    whole = result(rows)
    print("\n".join(map(line, whole["summary"])))
    return whole


def line(point: Mapping[str, Any]) -> str:
    """One way at one load; the gateway's share is a dash for raw gRPC, which does not pass it."""
    of_gateway = point.get("gateway_cpu_s_per_1000_texts")
    share = "     -" if of_gateway is None else f"{of_gateway['median']:6.3f}"
    return (
        f"{point['dimensions']:5} dims  {point['concurrency']:3} x "
        f"{point['texts_per_request']:3}  {point['subject']:14} "
        f"{point['texts_per_s']['median']:9.0f} vectors/s   client "
        f"{point['cpu_s_per_1000_texts']['median']:6.3f}   gateway {share} CPU s / 1,000"
    )


COMMAND = Command(add_arguments=_add_arguments, run=_run)

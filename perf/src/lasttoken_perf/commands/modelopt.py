"""``lasttoken-perf modelopt``."""

from __future__ import annotations

import argparse
from typing import Any

from lasttoken_export.catalogue import entry as catalogue_entry
from lasttoken_export.quality.sets import open_set
from lasttoken_perf.command import Command, cache_folder, say, whole_number
from lasttoken_perf.kept_rows import after_rows, rows_kept
from lasttoken_perf.modelopt.comparison import (
    PAIRS_OF_DECODER,
    PAIRS_OF_ENCODER,
    ModelComparison,
    compare_model,
)
from lasttoken_perf.modelopt.table import render
from lasttoken_perf.results import Row, make_result

MODELS = ("smollm2-135m", "all-minilm-l6-v2")
"""Compared unless the user names others."""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    # fmt: off
    parser.add_argument("--model", action="append", metavar="NAME",
        help=f"catalogue name; repeatable ({' and '.join(MODELS)})")
    parser.add_argument("--pairs", type=whole_number(2), metavar="N",
        help="pairs of Debian's package index"
        f" ({PAIRS_OF_DECODER} for a decoder, {PAIRS_OF_ENCODER} for an encoder)")
    # fmt: on


def _run(options: argparse.Namespace) -> dict[str, Any]:
    cache = cache_folder()
    names = list(dict.fromkeys(options.model or MODELS))
    entries = [catalogue_entry(name) for name in names]
    found: dict[str, ModelComparison] = {}
    rows: list[Row] = []

    def result(interrupted: str | None = None) -> dict[str, Any]:
        versions = next((dict(comparison.versions) for comparison in found.values()), {})
        return make_result(
            kind="modelopt",
            what="our calibration and nvidia-modelopt's against fp32, on the same rows of tokens",
            rows=rows,
            model={"names": names},
            workload={name: comparison.workload for name, comparison in found.items()},
            settings={"versions": versions},
            checks={name: comparison.checks for name, comparison in found.items()},
            interrupted=interrupted,
        )

    with rows_kept(options.output, after_rows(rows, result)):
        for entry in entries:
            found[entry.name] = compare_model(
                entry,
                lambda pairs: open_set("debian", pairs=pairs, cache_folder=cache),
                pairs=options.pairs,
                cache_folder=cache,
                say=say,
                on_row=rows.append,
            )
    made = result()
    print("\n".join(render(made)))
    return made


COMMAND = Command(add_arguments=_add_arguments, run=_run)

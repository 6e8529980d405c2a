"""``lasttoken-perf export``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from lasttoken_export.precisions import PRECISIONS
from lasttoken_export.quality.quality_options import EXPORT_PAIRS
from lasttoken_perf.command import Command, cache_folder, say, whole_number
from lasttoken_perf.errors import MemoryBarMissed
from lasttoken_perf.export_bench import run_export_bench


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--precision",
        choices=[name for name, known in PRECISIONS.items() if "onnxruntime" in known.targets],
        default="fp16",
        help="a calibrated one is calibrated too (%(default)s)",
    )
    parser.add_argument("--layers", type=whole_number(), help="layers of the model (all 32)")
    parser.add_argument(
        "--quality-pairs",
        type=whole_number(least=0),
        default=EXPORT_PAIRS,
        help="pairs of texts on which it is compared with fp32 (%(default)s); 0 for none",
    )
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("build/bench-export"),
        help="work folder, removed in the end; 32 GB (%(default)s)",
    )


def _run(options: argparse.Namespace) -> dict[str, Any]:
    result = run_export_bench(
        options.folder,
        precision=options.precision,
        layers=options.layers,
        quality_pairs=options.quality_pairs,
        cache_folder=cache_folder(),
        say=say,
    )
    print(json.dumps(result, indent=1))
    bar = result["peak_memory_bar_bytes"]
    if bar is not None and result["peak_memory_bytes"] > bar:
        raise MemoryBarMissed(
            f"the export took {result['peak_memory_bytes'] / 1e9:.2f} GB, the bar is "
            f"{result['peak_memory_bar_bytes'] / 1e9:.2f} GB"
        )
    return result


COMMAND = Command(add_arguments=_add_arguments, run=_run)

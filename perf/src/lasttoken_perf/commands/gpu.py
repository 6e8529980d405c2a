"""``lasttoken-perf gpu``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from lasttoken_perf.command import Command, positive_number, say, whole_number
from lasttoken_perf.errors import NothingMeasured
from lasttoken_perf.gpu_suite.render import suite_tables
from lasttoken_perf.gpu_suite.settings import DEVICES, FLOAT_BYTES, SuiteSettings
from lasttoken_perf.gpu_suite.shapes import SHAPES
from lasttoken_perf.gpu_suite.step_process import DONE
from lasttoken_perf.gpu_suite.suite import STEPS, run_suite

_DEFAULTS = {
    "cuda": {"precision": "fp16", "rows": 1024, "queries": 50, "batch_tokens": 8192},
    "cpu": {"precision": "fp32", "rows": 24, "queries": 5, "batch_tokens": 512},
}
"""By device, where the command line says nothing."""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    # fmt: off
    add("--device", default="cuda", choices=DEVICES,
        help="cpu tries everything but the GPU (%(default)s)")
    add("--shape", default="sfr", choices=tuple(SHAPES),
        help="of the random weights (%(default)s: SFR-Embedding-Mistral's)")
    add("--precision", choices=tuple(FLOAT_BYTES),
        help="of weights and activations (fp16; fp32 on a cpu)")
    add("--steps", nargs="+", default=list(STEPS), choices=tuple(STEPS), metavar="STEP",
        help=f"{', '.join(STEPS)} (all); the file keeps those that ran before")
    add("--step-limit-s", type=positive_number, default=900, metavar="SECONDS",
        help="a step that takes longer is ended (%(default)s)")
    add("--together", action="store_true",
        help="all steps in one process, for a trial of small shapes; no time limit")
    add("--rows", type=whole_number(), help="texts of a corpus (1024; 24 on a cpu)")
    add("--queries", type=whole_number(), help="single texts (50; 5 on a cpu)")
    add("--batch-tokens", type=whole_number(), metavar="TOKENS",
        help="most tokens of a batch (8192; 512 on a cpu)")
    add("--repeats", type=whole_number(), default=3,
        help="timed passes of every load (%(default)s)")
    add("--seed", type=whole_number(0), default=7,
        help="of weights, lengths and tokens (%(default)s)")
    add("--work-folder", type=Path, default=Path("build/gpu-suite"), metavar="DIR",
        help="graph, repository and logs; 30 GB at SFR's shape, kept (%(default)s)")
    # fmt: on
    parser.set_defaults(output=Path("build/gpu.json"))


def _run(options: argparse.Namespace) -> dict[str, Any]:
    chosen: dict[str, Any] = {
        name: default if getattr(options, name) is None else getattr(options, name)
        for name, default in _DEFAULTS[options.device].items()
    }
    settings = SuiteSettings(
        shape=options.shape,
        device=options.device,
        repeats=options.repeats,
        seed=options.seed,
        work_folder=options.work_folder.absolute(),
        **chosen,
    )
    result = run_suite(
        settings,
        options.steps,
        limit_s=options.step_limit_s,
        output=options.output,
        say=say,
        together=options.together,
    )
    print("\n".join(suite_tables(result)))
    if all(result["steps"][name]["status"] != DONE for name in options.steps):
        no_gpu = options.device == "cuda" and not result["machine"]["gpus"]
        raise NothingMeasured(
            "no step gave a figure; the table and the logs in "
            f"{settings.run_folder / 'steps'} say why"
            + ("; this machine shows no NVIDIA GPU: try --device cpu" if no_gpu else "")
        )
    return result


COMMAND = Command(add_arguments=_add_arguments, run=_run)

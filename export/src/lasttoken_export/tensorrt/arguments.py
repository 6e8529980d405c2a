"""The command line's options about plans, and the progress of a build."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from lasttoken_export.tensorrt.callbacks import OnProgress
from lasttoken_export.tensorrt.plan_choices import PlanChoices


def add_plan_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``--runtime tensorrt`` and ``--runtime tensorrt-rtx``."""
    group = parser.add_argument_group("plans, for --runtime tensorrt and tensorrt-rtx")
    group.add_argument("--compute-capability", metavar="X.Y",
                       help="of the GPU that will run the plan, as 8.9; without a GPU in this "
                       "machine tensorrt-rtx must be told (the GPU at hand)")  # fmt: skip
    group.add_argument("--weight-streaming", action="store_true",
                       help="let weights stay in the host's memory, for a model larger than the "
                       "GPU's; slower")  # fmt: skip
    group.add_argument("--keep-graph", action="store_true",
                       help="leave encoder.onnx beside the plan")  # fmt: skip
    group.add_argument("--no-plan-cache", action="store_true",
                       help="build anew, and keep no copy in the cache folder")  # fmt: skip


def plan_choices(options: argparse.Namespace, cache_folder: Path | None) -> PlanChoices:
    """Return what the command line says about the plan."""
    return PlanChoices(
        compute_capability=options.compute_capability,
        weight_streaming=options.weight_streaming,
        cache_folder=cache_folder,
        use_cache=not options.no_plan_cache,
        keep_graph=options.keep_graph,
    )


@contextmanager
def plan_progress() -> Iterator[OnProgress]:
    """Show the phase of a build and its steps, on a terminal only."""
    with tqdm(desc="building the plan", disable=None, leave=False) as bar:

        def show(phase: str, done: int, steps: int) -> None:
            bar.total = steps
            bar.n = done
            bar.set_description(f"building the plan: {phase}")

        yield show

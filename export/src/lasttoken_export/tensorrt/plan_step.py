"""The exporter's last step for the TensorRT runtimes: the plan takes the graph's place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lasttoken_export.errors import InvalidOption
from lasttoken_export.tensorrt.callbacks import OnProgress
from lasttoken_export.tensorrt.library import PLAN_RUNTIMES, TensorRTLibrary, load_library
from lasttoken_export.tensorrt.plan_builder import PlanOptions, build_plan
from lasttoken_export.tensorrt.plan_cache import find_plan, link_or_copy, plan_key, store_plan
from lasttoken_export.tensorrt.plan_choices import PlanChoices
from lasttoken_export.tensorrt.profile import PlanProfile
from lasttoken_export.tensorrt.target import (
    TargetDevice,
    check_precision_on_target,
    find_target,
    format_capability,
    parse_capability,
)

PLAN_FILE = "encoder.plan"
MAX_ROWS = 256
"""Most rows of a batch; the encoder's parameter ``max_batch_rows`` is written from it."""


def prepare_plan(
    runtime: str,
    precision: str,
    choices: PlanChoices,
    *,
    profile: PlanProfile,
) -> PlanOptions | None:
    """Check all that can be checked before anything is computed.

    Args:
        runtime: ``--runtime``.
        precision: ``--precision``.
        choices: The caller's.
        profile: Shapes of the batches.

    Returns:
        What the plan will be built for; None where the runtime takes the graph itself.

    Raises:
        InvalidOption: A choice about plans, for a runtime without plans, or a malformed one.
        MissingLibrary: The library is not installed.
        UnsupportedDevice: The target, or its lack of the precision.
    """
    if runtime not in PLAN_RUNTIMES:
        chosen = [choices.compute_capability, choices.weight_streaming, choices.keep_graph]
        if any(chosen) or not choices.use_cache:
            raise InvalidOption(
                "--compute-capability, --weight-streaming, --keep-graph and --no-plan-cache are of "
                f"plans, and --runtime {runtime} has none; choose --runtime "
                f"{' or '.join(PLAN_RUNTIMES)}"
            )
        return None
    library, target = find_library_and_target(runtime, precision, choices)
    return PlanOptions(
        library=library,
        target=target,
        precision=precision,
        profile=profile,
        weight_streaming=choices.weight_streaming,
        timing_cache=choices.plans_folder / f"timings-{library.version}-{target.name}.cache"
        if choices.use_cache and not library.is_rtx
        else None,
    )


def find_library_and_target(
    runtime: str, precision: str, choices: PlanChoices
) -> tuple[TensorRTLibrary, TargetDevice]:
    """Find what builds the plan and what it is built for; needs nothing of the model.

    Args:
        runtime: One of `PLAN_RUNTIMES`.
        precision: ``--precision``.
        choices: The caller's.

    Raises:
        InvalidOption: The compute capability is malformed.
        MissingLibrary: The library is not installed.
        UnsupportedDevice: The target, or its lack of the precision.
    """
    capability = choices.compute_capability
    wanted = parse_capability(capability) if capability is not None else None
    library = load_library(runtime)
    target = find_target(library, wanted)
    check_precision_on_target(precision, target)
    return library, target


def replace_graph_by_plan(
    graph: Path,
    options: PlanOptions,
    choices: PlanChoices,
    *,
    on_progress: OnProgress | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> tuple[Path, dict[str, Any]]:
    """Build the plan beside a graph, or take it from the cache, and remove the graph.

    Args:
        graph: Path of encoder.onnx.
        options: Of `prepare_plan`.
        choices: The caller's.
        on_progress: Told the steps of the build.
        say: Told where the plan cannot be kept for a later export.

    Returns:
        The plan's path, and what the card says of it.

    Raises:
        PlanError: The plan cannot be built; the message says why.
    """
    plan = graph.with_name(PLAN_FILE)
    key = plan_key(graph, options)
    cached = find_plan(choices.plans_folder, key) if choices.use_cache else None
    if cached is not None:
        link_or_copy(cached.path, plan)
        seconds = cached.build_seconds
    else:
        seconds = build_plan(graph, plan, options, on_progress=on_progress).seconds
        if choices.use_cache:
            try:
                store_plan(choices.plans_folder, key, plan, build_seconds=seconds)
            except OSError as error:  # it is built: hours are not lost for want of a copy
                say(
                    f"warning: the plan could not be kept in {choices.plans_folder} "
                    f"({error.strerror or error}); the next export builds it anew"
                )
    if not choices.keep_graph:
        graph.unlink()
        graph.with_name(f"{graph.name}.data").unlink(missing_ok=True)
    record = {
        "library": options.library.runtime,
        "library_version": options.library.version,
        "compute_capability": format_capability(options.target.compute_capability),
        "gpu": options.target.name,
        "precision": options.precision,
        "profile": options.profile.shapes(),
        "weight_streaming": options.weight_streaming,
        "plan_bytes": plan.stat().st_size,
        "build_seconds": round(seconds, 2),
        "from_cache": cached is not None,
        "key": key,
    }
    return plan, record

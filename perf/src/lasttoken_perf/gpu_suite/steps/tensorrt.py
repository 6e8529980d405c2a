"""A TensorRT plan of the served graph, through the server's own engine."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from lasttoken_export.errors import MissingLibrary, NotEnoughMemory, UnsupportedDevice
from lasttoken_export.model_sources import ENCODER
from lasttoken_export.precisions import PRECISIONS
from lasttoken_export.server_modules import server_module
from lasttoken_export.tensorrt.library import PLAN_RUNTIMES, TensorRTLibrary, load_library
from lasttoken_export.tensorrt.plan_builder import PlanOptions, build_plan
from lasttoken_export.tensorrt.plan_step import MAX_ROWS
from lasttoken_export.tensorrt.profile import PlanProfile
from lasttoken_export.tensorrt.target import TargetDevice, find_target
from lasttoken_perf.gpu_suite.exported import encoder_folder, export_repository
from lasttoken_perf.gpu_suite.measuring import Contestant, measure, packed_batches
from lasttoken_perf.gpu_suite.random_weights import RandomWeights
from lasttoken_perf.gpu_suite.settings import SuiteSettings
from lasttoken_perf.gpu_suite.step_report import StepReport, StepUnavailable

SUBJECTS = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}


def run(settings: SuiteSettings) -> StepReport:
    """Build the plan, and measure it.

    Raises:
        StepUnavailable: No library here builds a plan for this device.
        WrongAnswer: Its vectors are not the reference's.
    """
    if settings.device != "cuda":
        raise StepUnavailable("a plan runs on an NVIDIA GPU only")
    library, target = _library(settings.precision)
    packages = _packages(library.runtime)  # before minutes go into a plan that cannot be run
    weights = RandomWeights(
        settings.shape, precision=settings.precision, device=settings.device, seed=settings.seed
    )
    # The graph of ONNX Runtime's CUDA provider: targets differ in quantised precisions only.
    graph = encoder_folder(export_repository(weights, settings)) / "encoder.onnx"
    plan = settings.run_folder / "encoder.plan"
    longest = settings.max_length
    profile = PlanProfile(
        max_batch_tokens=max(settings.batch_tokens, longest),
        max_rows=MAX_ROWS,
        max_length=longest,
        usual_batch_tokens=settings.batch_tokens,
        shares_prefixes=True,  # as the exporter writes a causal model's graph
    )
    started_s = time.perf_counter()
    try:
        build_plan(
            graph,
            plan,
            PlanOptions(
                library=library, target=target, precision=settings.precision, profile=profile
            ),
        )
    except NotEnoughMemory as error:
        raise StepUnavailable(str(error)) from None
    seconds = time.perf_counter() - started_s
    engine = _engine(plan, *packages)
    contestant = Contestant(
        subject=SUBJECTS[library.runtime],
        version=library.version,
        precision=settings.precision,
        embed_batch=packed_batches(engine.encode),
    )
    report = measure(contestant, settings)
    report.checks["plan"] = {"build_seconds": seconds, "plan_bytes": plan.stat().st_size}
    return report


def _library(precision: str) -> tuple[TensorRTLibrary, TargetDevice]:
    refusals = []
    for runtime in PLAN_RUNTIMES:
        try:
            library = load_library(runtime)
            target = find_target(library, None)
        except (MissingLibrary, UnsupportedDevice) as error:
            refusals.append(str(error))
            continue
        needed = PRECISIONS[precision].minimum_compute_capability
        if target.compute_capability < needed:
            raise StepUnavailable(f"{target} has no arithmetic for {precision}")
        return library, target
    raise StepUnavailable("; ".join(refusals))


def _packages(runtime: str) -> tuple[Any, Any]:
    """Return the library and the CUDA runtime, as the server imports them."""
    import_package = server_module(ENCODER, "tensorrt_plan").import_package
    try:
        return import_package(runtime), import_package("cuda")
    except RuntimeError as error:
        raise StepUnavailable(str(error)) from None


def _engine(plan: Path, trt: Any, runtime: Any) -> Any:
    loaded = server_module(ENCODER, "tensorrt_plan").TensorRTPlan(plan, trt=trt)
    cuda = server_module(ENCODER, "cuda_device").Cuda(runtime)
    return server_module(ENCODER, "tensorrt_engine").TensorRTEngine(loaded, cuda)

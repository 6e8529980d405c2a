"""Builds a plan from an ONNX graph, with TensorRT or TensorRT-RTX by the same code."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lasttoken_export.available_memory import available_memory_bytes
from lasttoken_export.errors import BuildFailed, NotEnoughMemory, UnsupportedDevice
from lasttoken_export.tensorrt.callbacks import (
    OnProgress,
    make_logger,
    make_progress_monitor,
    make_writer,
)
from lasttoken_export.tensorrt.interruptible import run_interruptible
from lasttoken_export.tensorrt.library import TensorRTLibrary
from lasttoken_export.tensorrt.network import allow_unfused_attention, parse_network
from lasttoken_export.tensorrt.profile import PlanProfile
from lasttoken_export.tensorrt.target import TargetDevice, check_precision_on_target

_BASE_MEMORY_BYTES = 700_000_000
_MEMORY_PER_WEIGHT_BYTE = 3
"""Measured by TensorRT-RTX without a GPU: see docs/measurements/plans.md."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanOptions:
    """What a plan is built for.

    Attributes:
        library: Builds it.
        target: Runs it.
        precision: One of `precisions.PRECISIONS`; the graph is in it already.
        profile: The shapes.
        weight_streaming: Whether weights may stay in the host's memory and be streamed, for a model
            larger than the GPU's.
        timing_cache: File of kernel timings kept between builds (enterprise TensorRT only).
    """

    library: TensorRTLibrary
    target: TargetDevice
    precision: str
    profile: PlanProfile
    weight_streaming: bool = False
    timing_cache: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanReport:
    """What a build was.

    Attributes:
        seconds: Time of parsing and building.
        plan_bytes: Size of the plan.
        warnings: TensorRT's own.
    """

    seconds: float
    plan_bytes: int
    warnings: list[str]


def check_memory(weight_bytes: int) -> None:
    """Refuse a build that would run out of memory.

    Raises:
        NotEnoughMemory: Less is available.
    """
    needed = _BASE_MEMORY_BYTES + _MEMORY_PER_WEIGHT_BYTE * weight_bytes
    available = available_memory_bytes()
    if available < needed:
        raise NotEnoughMemory(
            f"building a plan of {weight_bytes / 1e9:.1f} GB of weights takes about "
            f"{needed / 1e9:.1f} GB of memory and {available / 1e9:.1f} GB are available; export "
            "on a machine with more, or in a smaller precision"
        )


def build_plan(
    graph: Path, plan: Path, options: PlanOptions, *, on_progress: OnProgress | None = None
) -> PlanReport:
    """Build a plan and write it.

    Args:
        graph: Path of the ONNX file; its external data lies beside it.
        plan: Path of the plan, replaced if it is there; removed where the build fails.
        options: What it is built for.
        on_progress: Told the steps of each phase, from any thread.

    Raises:
        NotEnoughMemory: Too little is available; nothing has been built.
        UnsupportedDevice: The target has no arithmetic of this precision, or no GPU answers.
        GraphRefused: The parser does not take the graph.
        BuildFailed: TensorRT says why.
        KeyboardInterrupt: As any interruption of the calling thread, seconds later at most.
    """
    check_precision_on_target(options.precision, options.target)
    external_data = graph.with_name(f"{graph.name}.data")
    check_memory(external_data.stat().st_size if external_data.exists() else 0)
    stop = threading.Event()
    return run_interruptible(
        lambda: _build(graph, plan, options, on_progress, stop), stop, name="plan"
    )


def _build(
    graph: Path,
    plan: Path,
    options: PlanOptions,
    on_progress: OnProgress | None,
    stop: threading.Event,
) -> PlanReport:
    started_s = time.perf_counter()
    trt = options.library.module
    logger = make_logger(trt)
    builder = _make_builder(trt, logger)
    network, parser = parse_network(trt, builder, logger, graph)
    if options.precision == "fp32":
        allow_unfused_attention(trt, network)
    config = configure(trt, builder, options)
    monitor = make_progress_monitor(trt, on_progress, stop)
    config.progress_monitor = monitor
    try:
        with plan.open("wb") as file:
            writer = make_writer(trt, file)
            built = builder.build_serialized_network_to_stream(network, config, writer)
        if writer.error is not None:
            raise BuildFailed(f"{plan}: the plan could not be written: {writer.error}")
        if not built or not plan.stat().st_size:
            raise BuildFailed(
                f"TensorRT {options.library.version} could not build {graph.name} in "
                f"{options.precision} for {options.target}: "
                f"{'; '.join(logger.errors) or 'it does not say why'}"
            )
    except BaseException:
        plan.unlink(missing_ok=True)
        raise
    _save_timings(config, options)
    del parser  # the network's weights lie in it until here
    return PlanReport(
        seconds=time.perf_counter() - started_s,
        plan_bytes=plan.stat().st_size,
        warnings=list(logger.warnings),
    )


def _make_builder(trt: Any, logger: Any) -> Any:
    try:
        return trt.Builder(logger)
    except TypeError:  # the bindings' word for a null pointer: no GPU, or no driver for it
        raise UnsupportedDevice(
            "TensorRT finds no usable GPU: " + ("; ".join(logger.errors) or "does nvidia-smi run?")
        ) from None


def configure(trt: Any, builder: Any, options: PlanOptions) -> Any:
    """Return the ``IBuilderConfig`` of a build.

    Args:
        trt: The library's module.
        builder: ``trt.Builder``.
        options: What is built.

    Raises:
        BuildFailed: TensorRT refuses the profile.
    """
    config = builder.create_builder_config()
    # float32 is the reference: TF32 would round its products to 10 bits.
    config.clear_flag(trt.BuilderFlag.TF32)
    # Without it a context may ask for the profile's bounds, whatever it is told of its batch: 20 GB
    # and more at SFR's size. TensorRT-RTX has it of itself.
    config.set_preview_feature(trt.PreviewFeature.RUNTIME_ACTIVATION_RESIZE_10_10, True)
    # Names and types stay in the plan, for tools and for the tests; they cost no time.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if options.weight_streaming:
        config.set_flag(trt.BuilderFlag.WEIGHT_STREAMING)
    if options.library.is_rtx:
        config.num_compute_capabilities = 1
        capability = getattr(trt.ComputeCapability, f"SM{options.target.compute_capability}")
        config.set_compute_capability(capability, 0)
    if config.add_optimization_profile(options.profile.to_tensorrt(builder)) < 0:
        raise BuildFailed(f"TensorRT refuses the profile {options.profile.shapes()}")
    if options.timing_cache is not None and not options.library.is_rtx:
        saved = options.timing_cache.read_bytes() if options.timing_cache.exists() else b""
        # Of another version it would be refused; then timings are taken anew.
        cache = config.create_timing_cache(saved) or config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    return config


def _save_timings(config: Any, options: PlanOptions) -> None:
    if options.timing_cache is None or options.library.is_rtx:
        return
    with suppress(OSError):  # the plan is built: it is not lost for want of a copy of its timings
        options.timing_cache.parent.mkdir(parents=True, exist_ok=True)
        partial = options.timing_cache.with_suffix(".partial")
        partial.write_bytes(memoryview(config.get_timing_cache().serialize()))
        partial.replace(options.timing_cache)

"""The exporter on the random weights: the repository that the following steps run and serve."""

from __future__ import annotations

import time

from lasttoken_perf.gpu_suite.exported import encoder_folder, export_repository
from lasttoken_perf.gpu_suite.measuring import device_of
from lasttoken_perf.gpu_suite.random_weights import RandomWeights
from lasttoken_perf.gpu_suite.settings import SuiteSettings
from lasttoken_perf.gpu_suite.step_report import StepReport
from lasttoken_perf.results import Row


def run(settings: SuiteSettings) -> StepReport:
    """Export, unless an earlier step did, and say how much was written and how long it took.

    Raises:
        ExportError: The exporter refuses.
    """
    weights = RandomWeights(
        settings.shape, precision=settings.precision, device=settings.device, seed=settings.seed
    )
    already_there = (settings.run_folder / "repository").is_dir()
    started_s = time.perf_counter()
    repository = export_repository(weights, settings)
    seconds = time.perf_counter() - started_s
    graph = encoder_folder(repository) / "encoder.onnx"
    row: Row = {
        "subject": "exporter",
        "device": device_of(settings),
        "precision": settings.precision,
        "load": "export",
        "file_bytes": sum(path.stat().st_size for path in graph.parent.glob(f"{graph.name}*")),
    }
    if not already_there:
        row["seconds"] = seconds
    return StepReport(rows=[row])

"""The served graph on ONNX Runtime, through the server's own engine."""

from __future__ import annotations

import onnxruntime

from lasttoken_perf.gpu_suite.exported import encoder_folder, export_repository
from lasttoken_perf.gpu_suite.graph_file import PROVIDERS
from lasttoken_perf.gpu_suite.measuring import Contestant, measure, packed_batches
from lasttoken_perf.gpu_suite.placement import has_provider, open_engine_on
from lasttoken_perf.gpu_suite.random_weights import RandomWeights
from lasttoken_perf.gpu_suite.settings import SuiteSettings
from lasttoken_perf.gpu_suite.step_report import StepReport, StepUnavailable

SUBJECT = "ONNX Runtime"


def run(settings: SuiteSettings) -> StepReport:
    """Measure the CUDA provider, or on a trial without a GPU the CPU provider.

    Raises:
        StepUnavailable: The installed ONNX Runtime has no CUDA provider.
        WrongAnswer: Its vectors are not the reference's.
    """
    provider = PROVIDERS[settings.device]
    if not has_provider(provider):
        raise StepUnavailable(
            f"ONNX Runtime {onnxruntime.__version__} has no {provider}; give it onnxruntime-gpu: "
            "`make gpu-bundle GPU_BUNDLE=--onnxruntime-gpu`, docs/gpu.md; where it is there, this "
            "step's log names the library that it misses"
        )
    weights = RandomWeights(
        settings.shape, precision=settings.precision, device=settings.device, seed=settings.seed
    )
    graph = encoder_folder(export_repository(weights, settings)) / "encoder.onnx"
    engine = open_engine_on(graph, provider)
    contestant = Contestant(
        subject=SUBJECT,
        version=onnxruntime.__version__,
        precision=settings.precision,
        embed_batch=packed_batches(engine.encode),
        variant=provider,
    )
    return measure(contestant, settings)
